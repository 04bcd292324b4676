"""Arrays that stay in a file, of which only those items come into memory that are asked for.

They are read through a descriptor and never mapped: pages of a mapping count against the address
space that a worker is limited to, and a file that is cut short would kill it.
"""

from __future__ import annotations

import math
import os
import shutil
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizers.contract.errors import InvalidData, NotSupported
from optimizers.readers.places import Place


class StoredRows:
    """An array in a file; indexed like an array by a slice or by item numbers.

    Attributes:
        shape: First axis = items.
        dtype: Of the items.
    """

    def __init__(self, place: Place) -> None:
        """Open the file, which stays open as long as this lives."""
        self.shape = place.shape
        self.dtype = place.dtype
        self._name = place.path.name
        self._offset = place.offset
        self._row_bytes = math.prod(place.shape[1:]) * place.dtype.itemsize
        self._file = os.open(place.path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._file)
        self._state = self._state_now()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, items: NDArray[np.int64] | slice) -> NDArray[Any]:
        """Some items, in the order asked for.

        Raises:
            InvalidData: The file was changed since it was opened.
            IndexError: There is no such item.
        """
        if isinstance(items, slice):
            start, stop, step = items.indices(len(self))
            if step == 1:
                array = self._room(max(0, stop - start))
                self._fill(array, start)
                return self._checked(array)
            items = np.arange(start, stop, step)
        if len(items) and not -len(self) <= items.min() <= items.max() < len(self):
            raise IndexError(f"{self._name} holds {len(self)} items")
        array = self._room(len(items))
        for place, number in enumerate(items.tolist()):
            self._fill(array[place : place + 1], number % len(self))
        return self._checked(array)

    def _room(self, count: int) -> NDArray[Any]:
        return np.empty((count, *self.shape[1:]), self.dtype)

    def _fill(self, array: NDArray[Any], first: int) -> None:
        room = array.reshape(-1).view(np.uint8)
        position = self._offset + first * self._row_bytes
        while room.size:
            size = os.preadv(self._file, [room.data], position)
            if size == 0:
                raise self._changed()
            room, position = room[size:], position + size

    def _checked(self, array: NDArray[Any]) -> NDArray[Any]:
        if self._state_now() != self._state:
            raise self._changed()
        return array

    def _changed(self) -> InvalidData:
        return InvalidData(f"{self._name} was changed while it was used; submit the job again")

    def _state_now(self) -> tuple[int, int]:
        status = os.fstat(self._file)
        return status.st_size, status.st_mtime_ns


Rows = NDArray[Any] | StoredRows
"""Items in memory or in a file."""


class RowWriter:
    """Writes items to a file, part after part."""

    def __init__(self, path: Path, expected_bytes: int) -> None:
        """Begin the file.

        Args:
            path: The file.
            expected_bytes: How much will be written to it.

        Raises:
            NotSupported: That is more than half of what is free: the disk is the server's as well,
                and a small compressed file can stand for more than any disk holds.
        """
        free = shutil.disk_usage(path.parent).free
        if expected_bytes > free // 2:
            raise NotSupported(
                f"data that is too large for memory takes {expected_bytes >> 20} MiB of disk, and "
                f"at most half of the {free >> 20} MiB that are free may be used; make room or "
                "bring less"
            )
        self._path = path
        self._count = 0
        self._like: NDArray[Any] | None = None
        path.write_bytes(b"")

    def write(self, part: NDArray[Any]) -> None:
        """Add items of one shape and datatype.

        Raises:
            NotSupported: They could not be written; an OSError would be taken for one of the data
                file that is being read.
        """
        self._like = part[:0]
        self._count += len(part)
        try:
            with self._path.open("ab") as file:
                file.write(np.ascontiguousarray(part).tobytes())
        except OSError as error:
            raise NotSupported(
                f"data that is too large for memory could not be written to the job's directory: "
                f"{error.strerror}"
            ) from error

    def rows(self) -> StoredRows:
        """What was written, at least one part."""
        assert self._like is not None
        shape = (self._count, *self._like.shape[1:])
        return StoredRows(Place(path=self._path, offset=0, shape=shape, dtype=self._like.dtype))
