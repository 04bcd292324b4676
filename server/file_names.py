"""Names of files that operators and callers write: each must stay in the folder it is meant for."""

from __future__ import annotations

import re
from typing import Final

_LONGEST_BYTES: Final = 255
_VERSION: Final = re.compile(r"[1-9][0-9]{0,17}")


def is_plain_file_name(name: str) -> bool:
    """Whether a name means a file of the folder it is looked for in, and nothing else anywhere."""
    plain = name.isprintable() and "/" not in name and not name.startswith(".")
    return plain and 0 < len(name.encode()) <= _LONGEST_BYTES


def is_version(name: str) -> bool:
    """Whether a name is that of a version folder: a number from 1 to 10^18 - 1, without zeros."""
    return _VERSION.fullmatch(name) is not None
