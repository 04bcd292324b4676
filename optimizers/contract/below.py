"""Paths that an operator writes: names of files below the directory of whoever names them."""

from __future__ import annotations

from typing import Final

_LONGEST_PATH: Final = 1024
_LONGEST_PATH_PART: Final = 255


def why_not_below(path: str, home: str) -> str:
    """What is wrong with a relative path; "" where it names a file that may lie below `home`.

    Args:
        path: As it was written, not empty.
        home: What it has to stay below, in words.
    """
    parts = path.split("/")
    if path.startswith("/") or ".." in parts:
        return f"expected a path below {home}"
    longest = max(len(part.encode(errors="replace")) for part in parts)
    if "\0" in path or len(path) > _LONGEST_PATH or longest > _LONGEST_PATH_PART:
        return "expected a path that can name a file"
    return ""
