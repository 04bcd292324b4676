"""Names of files that operators and callers write: each must stay in the folder it is meant for."""

from __future__ import annotations

from typing import Final

_LONGEST_BYTES: Final = 255


def is_plain_file_name(name: str) -> bool:
    """Whether a name means a file of the folder it is looked for in, and nothing else anywhere."""
    plain = name.isprintable() and "/" not in name and not name.startswith(".")
    return plain and 0 < len(name.encode()) <= _LONGEST_BYTES
