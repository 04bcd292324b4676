"""One array in numpy's file format, read from its first item on and no further than asked."""

from __future__ import annotations

import math
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

_HEADERS: Final = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_PIECE_BYTES: Final = 8 << 20


class Rows:
    """An array whose items are read in order. Nothing is unpickled.

    Attributes:
        count: How many items it has.
    """

    def __init__(self, stream: IO[bytes], name: str, length: int) -> None:
        """Read the header.

        Args:
            stream: At the beginning of the header.
            name: Of the array, for errors.
            length: Bytes of header and array together.

        Raises:
            ValueError: It is no header, of an unknown version, or says that objects or more than
                `length` bytes follow.
        """
        self._stream = stream
        version = np.lib.format.read_magic(stream)
        read_header = _HEADERS.get(version)
        if read_header is None:
            raise ValueError(f"{name} has format {version}, expected one of {list(_HEADERS)}")
        self._shape, is_fortran, self._dtype = read_header(stream)
        if self._dtype.hasobject:
            raise ValueError(f"{name} holds Python objects, which are never unpickled")
        told = math.prod(self._shape) * self._dtype.itemsize
        if told > length:
            raise ValueError(f"{name} is said to hold {told} bytes and has {length}")
        self.count = self._shape[0] if self._shape else 0
        self._left = self.count
        self._whole: NDArray[Any] | None = None
        if is_fortran:  # its items do not lie one after the other
            self._whole = self._read(self._shape[::-1]).T

    def take(self, items: int | None) -> NDArray[Any]:
        """The next items, all of them for None.

        Raises:
            EOFError: The file ends before them.
        """
        start = self.count - self._left
        wanted = self._left if items is None else min(items, self._left)
        self._left -= wanted
        if self._whole is not None:
            return np.ascontiguousarray(self._whole[start : start + wanted])
        return self._read((wanted, *self._shape[1:]))

    def _read(self, shape: tuple[int, ...]) -> NDArray[Any]:
        array = np.empty(shape, self._dtype)
        room = array.reshape(-1).view(np.uint8) if array.nbytes else np.empty(0, np.uint8)
        filled = 0
        while filled < len(room):
            content = self._stream.read(min(_PIECE_BYTES, len(room) - filled))
            if not content:
                raise EOFError("it is cut short")
            room[filled : filled + len(content)] = np.frombuffer(content, np.uint8)
            filled += len(content)
        return array
