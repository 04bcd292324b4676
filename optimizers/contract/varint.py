"""Numbers as protobuf writes them."""

from __future__ import annotations

import mmap


def read_varint(content: bytes | mmap.mmap, position: int) -> tuple[int, int]:
    """The number that begins at `position`, and where it ends.

    Raises:
        ValueError: It is longer than any number may be.
        IndexError: The content ends within it.
    """
    value = shift = 0
    while True:
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")
