"""Named arrays from `.npz` files, checked against a model's signature."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from optimizers.contract.errors import InvalidData
from optimizers.contract.signature import NUMPY_DTYPES, Signature

LABELS: Final = "labels"

Arrays = dict[str, NDArray[Any]]


def load_arrays(path: Path, signature: Signature) -> tuple[Arrays, NDArray[Any] | None]:
    """Read one data file.

    Args:
        path: An `.npz` with one array per model input (first axis = items) and, if it likes,
            `labels`. Texts are stored as fixed-width bytes or unicode; nothing is unpickled.
        signature: The model's.

    Returns:
        Input name → array of the input's datatype, and the labels or None.

    Raises:
        InvalidData: It cannot be read or does not fit; the text says what was expected.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise InvalidData(f"{path.name} cannot be read as an .npz file: {error}") from error
    labels = arrays.pop(LABELS, None) if LABELS not in _names(signature) else None
    if set(arrays) != set(_names(signature)):
        raise InvalidData(
            f"{path.name} holds {sorted(arrays)}; expected one array per input: "
            f"{_names(signature)} (and, if you like, 'labels')"
        )
    counts = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if labels is not None:
        counts[LABELS] = len(labels)
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise InvalidData(
            f"{path.name}: every array must have the same number of items, at least 1; got {counts}"
        )
    return {
        spec.name: _fit(path, spec.name, arrays, signature) for spec in signature.inputs
    }, labels


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


def _names(signature: Signature) -> list[str]:
    return [spec.name for spec in signature.inputs]


def _fit(path: Path, name: str, arrays: Arrays, signature: Signature) -> NDArray[Any]:
    spec = next(spec for spec in signature.inputs if spec.name == name)
    array = arrays[name]
    fits = array.ndim == len(spec.shape) and all(
        wanted in (-1, length)
        for length, wanted in zip(array.shape[1:], spec.shape[1:], strict=True)
    )
    if not fits:
        raise InvalidData(
            f"{path.name}: '{name}' has shape {list(array.shape)}, expected items x "
            f"{list(spec.shape[1:])} (-1 stands for any length)"
        )
    if spec.datatype == "BYTES":
        if array.dtype.kind not in "SU":
            raise InvalidData(f"{path.name}: '{name}' must hold texts, got {array.dtype}")
        try:
            texts = array if array.dtype.kind == "U" else np.char.decode(array, "utf-8")
        except UnicodeDecodeError as error:
            raise InvalidData(f"{path.name}: '{name}' holds bytes that are not UTF-8") from error
        return texts.astype(np.object_)
    wanted_type = NUMPY_DTYPES[spec.datatype]
    if not np.can_cast(array.dtype, wanted_type, "same_kind"):
        raise InvalidData(f"{path.name}: '{name}' holds {array.dtype}, expected {wanted_type}")
    return array.astype(wanted_type, copy=False)
