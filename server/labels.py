"""The names of an output's classes: a text file, one name a line, the first for class 0."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from optimizers.contract.documents import read_text, shown
from optimizers.contract.errors import InvalidDocument

_MOST: Final = 1 << 17
_LONGEST: Final = 256


def read_labels(path: Path, source: str) -> tuple[str, ...] | None:
    """The labels in a file, or None where there is none.

    An empty line is a class without a name.

    Args:
        path: Where it lies.
        source: The name shown in errors.

    Raises:
        InvalidDocument: It is no file, too long, unreadable or not UTF-8, or has too many or too
            long lines.
    """
    text = read_text(path, source)
    if text is None:
        return None
    labels = tuple(line.rstrip("\r") for line in text.removesuffix("\n").split("\n"))
    if len(labels) > _MOST:
        raise InvalidDocument(f"{source}: expected at most {_MOST} labels, got {len(labels)}")
    for number, label in enumerate(labels, 1):
        if len(label) > _LONGEST:
            raise InvalidDocument(
                f"{source}:{number}: a label has at most {_LONGEST} characters, got {shown(label)}"
            )
    return labels
