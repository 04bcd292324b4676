"""Where in a file an array lies as it is, so that any of its items can be read by itself."""

from __future__ import annotations

import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

_LOCAL_HEADER: Final = struct.Struct("<4s22xHH")
"""Of a member of a zip file: a signature, what is of no interest here, lengths of two texts."""

_HEADERS: Final = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an array's numbers lie, item after item.

    Attributes:
        path: The file.
        offset: Of the first number, in bytes.
        shape: First axis = items.
        dtype: Of fixed size.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def places(path: Path) -> dict[str, Place]:
    """The arrays of an `.npz` by name, or that of an `.npy` by the name "".

    Args:
        path: A file that a reader has read to its end.

    Returns:
        Those that are neither compressed nor in Fortran order; none for a file of another kind.
    """
    match path.suffix:
        case ".npy":
            with path.open("rb") as stream:
                return _found({"": _place(path, stream)})
        case ".npz":
            with zipfile.ZipFile(path) as archive, path.open("rb") as stream:
                return _found(
                    {
                        # Of two of one name the last counts, as for the reader that checks them.
                        entry.filename.removesuffix(".npy"): _place(path, stream, entry)
                        for entry in archive.infolist()
                    }
                )
    return {}


def _found(candidates: dict[str, Place | None]) -> dict[str, Place]:
    return {name: place for name, place in candidates.items() if place is not None}


def _place(path: Path, stream: IO[bytes], entry: zipfile.ZipInfo | None = None) -> Place | None:
    if entry is not None:
        if entry.compress_type != zipfile.ZIP_STORED:
            return None
        stream.seek(entry.header_offset)
        _, name, extra = _LOCAL_HEADER.unpack(stream.read(_LOCAL_HEADER.size))
        stream.seek(name + extra, 1)
    read_header = _HEADERS[np.lib.format.read_magic(stream)]
    shape, is_fortran, dtype = read_header(stream)
    if is_fortran or dtype.hasobject:
        return None
    return Place(path=path, offset=stream.tell(), shape=shape, dtype=dtype)
