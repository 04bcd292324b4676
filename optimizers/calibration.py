"""Named arrays from data files and image folders, checked against a model's signature."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from optimizers.contract.data_files import FOLDER_SUFFIX, ImageFolder, read_image_folder
from optimizers.contract.errors import InvalidData
from optimizers.contract.signature import Signature
from optimizers.readers.columns import joined
from optimizers.readers.fitting import LABELS, Arrays, Groups
from optimizers.readers.images import open_images
from optimizers.readers.numpy_files import open_npy, open_npz
from optimizers.readers.opened import DataFile
from optimizers.readers.parquet import open_parquet
from optimizers.step import StepContext

__all__ = [
    "HOLD_GROUPS",
    "LABELS",
    "Arrays",
    "Groups",
    "batches",
    "fitting_batches",
    "fixed_batch",
    "item_count",
    "load_arrays",
    "load_drawn",
    "load_groups",
    "load_in_parts",
    "open_data",
    "take",
    "whole_batches",
]


HOLD_GROUPS: Final = (".npz", ".parquet")
"""Suffixes of the kinds of data in which `groups` can stand beside the items."""

_ITEMS_AT_ONCE: Final = 64


def open_data(path: Path, signature: Signature) -> AbstractContextManager[DataFile]:
    """Open data to read it from its first item on.

    Args:
        path: An `.npz` or `.parquet` with one array or column per model input and, if it likes,
            `labels` and `groups`; an `.npy` with a model's only input; a folder of images; or a
            file that names such a folder and says how its images are read (`contract.data_files`).
        signature: The model's.

    Raises:
        InvalidData: It is of another kind; also on entering and when items are taken, where it
            cannot be read or does not fit. The text names file and row and what was expected.
    """
    if path.is_dir():
        return open_images(ImageFolder(path=path), signature)
    match path.suffix:
        case ".npz":
            return open_npz(path, signature)
        case ".npy":
            return open_npy(path, signature)
        case ".parquet":
            return open_parquet(path, signature)
        case kind if kind == FOLDER_SUFFIX:
            return open_images(read_image_folder(path), signature)
    raise InvalidData(
        f"{path.name} is of no known kind; expected .npz, .npy, .parquet or a folder of images"
    )


def load_arrays(
    path: Path, signature: Signature, items: int | None = None
) -> tuple[Arrays, NDArray[Any] | None]:
    """Read data, or its first items.

    Args:
        path: See `open_data`. Texts are stored as fixed-width bytes or unicode; nothing is
            unpickled.
        signature: The model's.
        items: Read at most so many and hold no more in memory; all when left out.

    Returns:
        Input name → array of the input's datatype, and the labels or None.

    Raises:
        InvalidData: It cannot be read or does not fit; the text says what was expected.
    """
    with open_data(path, signature) as file:
        return file.take(items), file.labels(items)


def load_drawn(path: Path, signature: Signature, items: int, seed: int) -> Arrays:
    """At most so many items, drawn from all of the data, in its order.

    The whole data is read for it, and little more of it held than what is drawn. Of a folder of
    images it is the first, as these come mixed and take long to decode (`readers.listing`).

    Args:
        path: See `open_data`.
        signature: The model's.
        items: How many, all for that many or more; at least 1.
        seed: The same seed draws the same items.

    Returns:
        Input name → array of the input's datatype.

    Raises:
        InvalidData: See `load_arrays`.
    """
    is_mixed = path.is_dir() or path.suffix == FOLDER_SUFFIX
    drawn: list[Arrays] = []
    with open_data(path, signature) as file:
        if items >= file.count or is_mixed:
            return file.take(items)
        numbers = np.sort(np.random.default_rng(seed).permutation(file.count)[:items])
        for start in range(0, int(numbers[-1]) + 1, _ITEMS_AT_ONCE):
            part = file.take(_ITEMS_AT_ONCE)
            here = numbers[(numbers >= start) & (numbers < start + _ITEMS_AT_ONCE)] - start
            drawn.append(take(part, here))
    return {
        name: joined(path.name, name, [part[name] for part in drawn if len(part[name])], 0)
        for name in drawn[0]
    }


def load_groups(path: Path, signature: Signature) -> Groups | None:
    """The name of the cluster that each item belongs to; None where the data names none.

    Raises:
        InvalidData: See `open_data`; also where they are not one whole number or text per item.
    """
    with open_data(path, signature) as file:
        return file.groups()


def load_in_parts(path: Path, signature: Signature, items: int) -> Iterator[Arrays]:
    """Read data without its labels, at most `items` items at a time.

    Raises:
        InvalidData: See `load_arrays`.
    """
    with open_data(path, signature) as file:
        for _ in range(0, file.count, items):
            yield file.take(items)


def calibration_file(context: StepContext, who: str) -> Path:
    """Where the calibration data lies.

    Raises:
        InvalidData: There is none; the text says that `who` needs it.
    """
    path = context.data.get("calibration")
    if path is None:
        raise InvalidData(
            f"{who} needs calibration data: name an .npz as data.calibration in hone.yaml"
        )
    return path


def batches(arrays: Arrays, size: int) -> Iterator[Arrays]:
    """The items in order, `size` at a time; the last batch may be smaller."""
    count = item_count(arrays)
    for start in range(0, count, size):
        yield {name: array[start : start + size] for name, array in arrays.items()}


def fixed_batch(signature: Signature) -> int | None:
    """How many items a model has to be given together; None where it takes any number."""
    fixed = {spec.shape[0] for spec in signature.inputs if spec.shape} - {-1}
    return min(fixed, default=None)


def whole_batches(arrays: Arrays, signature: Signature) -> Arrays:
    """All items that the model can be run on: those after the last full fixed batch go.

    Raises:
        InvalidData: They do not fill one fixed batch.
    """
    fixed = fixed_batch(signature)
    if fixed is None:
        return arrays
    count = item_count(arrays)
    if count < fixed:
        raise InvalidData(
            f"the model takes batches of {fixed}; expected at least so many calibration items, "
            f"got {count}"
        )
    return take(arrays, slice(count - count % fixed))


def fitting_batches(arrays: Arrays, signature: Signature, most: int) -> Iterator[Arrays]:
    """The items in batches that the model takes: of its fixed size, else of at most `most`.

    Raises:
        InvalidData: See `whole_batches`.
    """
    return batches(whole_batches(arrays, signature), fixed_batch(signature) or most)


def take(arrays: Arrays, items: NDArray[Any] | slice) -> Arrays:
    """The items chosen by index."""
    return {name: array[items] for name, array in arrays.items()}


def item_count(arrays: Arrays) -> int:
    """How many items there are."""
    return len(next(iter(arrays.values())))
