"""Data read to its end, of which no more stays in memory than was allowed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np

from optimizers.calibration import Arrays, item_count
from optimizers.contract.errors import InvalidData
from optimizers.contract.signature import NUMPY_DTYPES, Signature
from optimizers.learning.stored import Rows, RowWriter, StoredRows
from optimizers.readers.opened import DataFile
from optimizers.readers.places import places

_PART_BYTES: Final = 4 << 20
_MOST_AT_ONCE: Final = 256
"""Items in a part."""


def read_rows(
    path: Path, signature: Signature, file: DataFile, directory: Path, held_bytes: int
) -> dict[str, Rows]:
    """Read every input's items; all of them are checked, wherever they stay.

    Args:
        path: What `file` was opened from.
        signature: The model's.
        file: At its first item.
        directory: Where they are written to that are too large for memory and do not lie in
            `path` as the model takes them.
        held_bytes: Most bytes, all inputs together, that stay in memory.

    Raises:
        InvalidData: They do not fit the model, or differ in shape.
        NotSupported: The disk has no room for them.
    """
    parts = _parts(path, file, _items_at_once(signature))
    first = next(parts)
    size = sum(array.nbytes for array in first.values()) * file.count // item_count(first)
    if size <= held_bytes or any(array.dtype.hasobject for array in first.values()):
        whole = [first, *parts]
        return {name: np.concatenate([part[name] for part in whole]) for name in first}
    found: dict[str, Rows] = dict(_in_place(path, first))
    writers = {
        name: RowWriter(directory / f"train.{number}.rows", array.nbytes * file.count // len(array))
        for number, (name, array) in enumerate(first.items())
        if name not in found
    }
    for part in chain([first], parts):
        for name, writer in writers.items():
            writer.write(part[name])
    return found | {name: writer.rows() for name, writer in writers.items()}


def _parts(path: Path, file: DataFile, at_once: int) -> Iterator[Arrays]:
    """All items in order, checked as they come.

    Raises:
        InvalidData: They do not fit the model, or differ in shape.
    """
    like: dict[str, tuple[int, ...]] = {}
    for first in range(0, file.count, at_once):
        part = file.take(at_once)
        like = like or {name: array.shape[1:] for name, array in part.items()}
        for name, array in part.items():
            if array.shape[1:] != like[name]:
                raise InvalidData(
                    f"{path.name}: '{name}' has shape {list(array.shape[1:])} in {file.row(first)} "
                    f"and {list(like[name])} before; expected one shape"
                )
        yield part


def _items_at_once(signature: Signature) -> int:
    """As many as one part holds; of those whose length is not known, few."""
    size = sum(
        math.prod(max(1, length) for length in spec.shape[1:])
        * NUMPY_DTYPES[spec.datatype].itemsize
        for spec in signature.inputs
    )
    return max(1, min(_MOST_AT_ONCE, _PART_BYTES // max(1, size)))


def _in_place(path: Path, like: Arrays) -> dict[str, StoredRows]:
    """The inputs whose numbers lie in the file as the model takes them."""
    found = {(name or next(iter(like))): place for name, place in places(path).items()}
    return {
        name: StoredRows(found[name])
        for name, array in like.items()
        if name in found and found[name].dtype == array.dtype
    }
