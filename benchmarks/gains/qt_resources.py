"""Reads Qt's binary resource archives (`.rcc`), in which some packages keep their pictures.

An archive is a header, a tree of entries, their names in UTF-16 and their data, each part found by
an offset in the header, all numbers big-endian. Source: `qresource.cpp` of Qt 5 and 6.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from optimizers.contract.errors import InvalidData

_HEADER: Final = struct.Struct(">4sIIII")
_MAGIC: Final = b"qres"
_ENTRY_BYTES: Final = {1: 14, 2: 22, 3: 22}
"""By version of the format; later ones add a time."""

_COMPRESSED: Final = 1 | 4
_FOLDER: Final = 2
_NAME_AT: Final = 6
"""A name's own header: its length and a hash."""


def resources(file: Path) -> Iterator[tuple[str, bytes]]:
    """Every file of an archive as its path within, which begins with a slash, and its content.

    What is compressed is left out: pictures never are.

    Raises:
        InvalidData: It is no such archive, or of a version that is not known.
    """
    data = file.read_bytes()
    magic, version, *_ = _HEADER.unpack_from(data) if len(data) >= _HEADER.size else (b"", 0)
    if magic != _MAGIC or version not in _ENTRY_BYTES:
        raise InvalidData(f"{file} is no Qt resource archive of version 1, 2 or 3")
    yield from _Archive(data).files(0, "")


class _Archive:
    def __init__(self, data: bytes) -> None:
        self._data = data
        _, version, self._tree, self._contents, self._names = _HEADER.unpack_from(data)
        self._entry_bytes = _ENTRY_BYTES[version]

    def files(self, number: int, parent: str) -> Iterator[tuple[str, bytes]]:
        """All below one entry of the tree; the first is the root."""
        entry = self._tree + number * self._entry_bytes
        name_at, flags = struct.unpack_from(">IH", self._data, entry)
        path = f"{parent}/{self._name(name_at)}" if number else ""
        if flags & _FOLDER:
            count, first = struct.unpack_from(">II", self._data, entry + 6)
            for child in range(first, first + count):
                yield from self.files(child, path)
        elif not flags & _COMPRESSED:
            (offset,) = struct.unpack_from(">I", self._data, entry + 10)
            yield path, self._content(self._contents + offset)

    def _name(self, offset: int) -> str:
        start = self._names + offset
        (length,) = struct.unpack_from(">H", self._data, start)
        return self._data[start + _NAME_AT : start + _NAME_AT + 2 * length].decode("utf-16-be")

    def _content(self, start: int) -> bytes:
        (length,) = struct.unpack_from(">I", self._data, start)
        return self._data[start + 4 : start + 4 + length]
