"""Named arrays from `.npz` files, checked against a model's signature."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from optimizers.contract.errors import InvalidData
from optimizers.contract.signature import NUMPY_DTYPES, Signature, TensorSpec

LABELS: Final = "labels"

Arrays = dict[str, NDArray[Any]]

_HEADERS: Final = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_PIECE_BYTES: Final = 8 << 20
_UNREADABLE: Final = (
    OSError,
    ValueError,
    EOFError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)


def load_arrays(
    path: Path, signature: Signature, items: int | None = None
) -> tuple[Arrays, NDArray[Any] | None]:
    """Read one data file, or its first items.

    Args:
        path: An `.npz` with one array per model input (first axis = items) and, if it likes,
            `labels`. Texts are stored as fixed-width bytes or unicode; nothing is unpickled.
        signature: The model's.
        items: Read at most so many and hold no more in memory; all when left out.

    Returns:
        Input name → array of the input's datatype, and the labels or None.

    Raises:
        InvalidData: It cannot be read or does not fit; the text says what was expected.
    """
    with _open(path, signature) as file:
        labels = file.labels.take(items) if file.labels is not None else None
        return file.take(items), labels


def load_in_parts(path: Path, signature: Signature, items: int) -> Iterator[Arrays]:
    """Read one data file without its labels, at most `items` items at a time.

    Raises:
        InvalidData: See `load_arrays`.
    """
    with _open(path, signature) as file:
        for _ in range(0, file.count, items):
            yield file.take(items)


def batches(arrays: Arrays, size: int) -> Iterator[Arrays]:
    """The items in order, `size` at a time; the last batch may be smaller."""
    count = item_count(arrays)
    for start in range(0, count, size):
        yield {name: array[start : start + size] for name, array in arrays.items()}


def take(arrays: Arrays, items: NDArray[Any] | slice) -> Arrays:
    """The items chosen by index."""
    return {name: array[items] for name, array in arrays.items()}


def item_count(arrays: Arrays) -> int:
    """How many items there are."""
    return len(next(iter(arrays.values())))


class _Rows:
    """An array of an open `.npz`, read from its first item on and no further than asked."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        self._stream = archive.open(name)
        version = np.lib.format.read_magic(self._stream)
        read_header = _HEADERS.get(version)
        if read_header is None:
            raise ValueError(f"{name} has format {version}, expected one of {list(_HEADERS)}")
        self._shape, is_fortran, self._dtype = read_header(self._stream)
        if self._dtype.hasobject:
            raise ValueError(f"{name} holds Python objects, which are never unpickled")
        self.count = self._shape[0] if self._shape else 0
        self._left = self.count
        self._whole: NDArray[Any] | None = None
        if is_fortran:  # its items do not lie one after the other
            self._whole = self._read(self._shape[::-1]).T

    def take(self, items: int | None) -> NDArray[Any]:
        """The next items, all of them when left out."""
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


class _DataFile:
    """An open data file whose arrays fit a model."""

    def __init__(self, path: Path, signature: Signature, rows: dict[str, _Rows]) -> None:
        names = [spec.name for spec in signature.inputs]
        self.labels = rows.pop(LABELS, None) if LABELS not in names else None
        if set(rows) != set(names):
            raise InvalidData(
                f"{path.name} holds {sorted(rows)}; expected one array per input: {names} (and, "
                "if you like, 'labels')"
            )
        counts = {name: row.count for name, row in rows.items()}
        if self.labels is not None:
            counts[LABELS] = self.labels.count
        if len(set(counts.values())) != 1 or 0 in counts.values():
            raise InvalidData(
                f"{path.name}: every array must have the same number of items, at least 1; got "
                f"{counts}"
            )
        self.count = next(iter(counts.values()))
        self._path = path
        self._signature = signature
        self._rows = rows

    def take(self, items: int | None) -> Arrays:
        """The next items of every input."""
        return {
            spec.name: _fit(self._path, spec, self._rows[spec.name].take(items))
            for spec in self._signature.inputs
        }


@contextmanager
def _open(path: Path, signature: Signature) -> Iterator[_DataFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            rows = {name.removesuffix(".npy"): _Rows(archive, name) for name in archive.namelist()}
            yield _DataFile(path, signature, rows)
    except _UNREADABLE as error:
        raise InvalidData(f"{path.name} cannot be read as an .npz file: {error}") from error


def _fit(path: Path, spec: TensorSpec, array: NDArray[Any]) -> NDArray[Any]:
    fits = array.ndim == len(spec.shape) and all(
        wanted in (-1, length)
        for length, wanted in zip(array.shape[1:], spec.shape[1:], strict=True)
    )
    if not fits:
        raise InvalidData(
            f"{path.name}: '{spec.name}' has shape {list(array.shape)}, expected items x "
            f"{list(spec.shape[1:])} (-1 stands for any length)"
        )
    if spec.datatype == "BYTES":
        return _texts(path, spec.name, array)
    wanted_type = NUMPY_DTYPES[spec.datatype]
    if not np.can_cast(array.dtype, wanted_type, "same_kind"):
        raise InvalidData(f"{path.name}: '{spec.name}' holds {array.dtype}, expected {wanted_type}")
    return array.astype(wanted_type, copy=False)


def _texts(path: Path, name: str, array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind not in "SU":
        raise InvalidData(f"{path.name}: '{name}' must hold texts, got {array.dtype}")
    try:
        texts = array if array.dtype.kind == "U" else np.char.decode(array, "utf-8")
    except UnicodeDecodeError as error:
        raise InvalidData(f"{path.name}: '{name}' holds bytes that are not UTF-8") from error
    return texts.astype(np.object_)
