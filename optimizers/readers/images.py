"""A folder of images as the items of a model with one input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizers.contract.data_files import ImageFolder
from optimizers.contract.errors import InvalidData
from optimizers.contract.preprocessing import Preprocessing
from optimizers.contract.signature import Signature, TensorSpec
from optimizers.readers.decoding import decode
from optimizers.readers.fitting import Arrays, Groups, fit, single_input
from optimizers.readers.libraries import require_library
from optimizers.readers.listing import Listing, list_images
from optimizers.readers.pixels import prepared


class ImageFile:
    """The images of a folder, decoded when they are asked for.

    Attributes:
        count: How many there are.
        classes: Their classes; empty without labels.
    """

    def __init__(
        self, name: str, listing: Listing, spec: TensorSpec, preprocess: Preprocessing
    ) -> None:
        """Look at nothing yet."""
        self.count = len(listing.images)
        self.classes = listing.classes
        self._name = name
        self._listing = listing
        self._spec = spec
        self._preprocess = preprocess
        self._taken = 0
        self._like: tuple[str, tuple[int, ...]] | None = None

    def take(self, items: int | None) -> Arrays:
        """The next images."""
        first = self._taken
        self._taken = self.count if items is None else min(self.count, first + items)
        array: NDArray[Any] | None = None
        for index in range(first, self._taken):
            item = self._item(index)
            if array is None:
                array = np.empty((self._taken - first, *item.shape), item.dtype)
            array[index - first] = item
        if array is None:
            raise InvalidData(f"{self._name}: no images are left")
        return {self._spec.name: fit(self._name, self._spec, array, first)}

    def labels(self, items: int | None) -> NDArray[Any] | None:
        """The classes of the first images."""
        if not self.classes:
            return None
        count = self.count if items is None else min(items, self.count)
        return np.array([self._listing.label(index) for index in range(count)], np.int64)

    def groups(self) -> Groups | None:
        """None: the folders are classes, and nothing else is known of an image."""
        return None

    def row(self, index: int) -> str:
        """How a person finds an image."""
        return f"{self._name}/{self._listing.images[index][0]}"

    def _item(self, index: int) -> NDArray[Any]:
        row = self.row(index)
        item = prepared(decode(self._listing.images[index][1], row), self._preprocess, row)
        wanted = self._spec.shape[1:]
        lengths = zip(item.shape, wanted, strict=False)
        if item.ndim != len(wanted) or any(want not in (-1, length) for length, want in lengths):
            raise InvalidData(
                f"{row} has shape {list(item.shape)} after preprocessing, expected {list(wanted)} "
                f"for '{self._spec.name}' (-1 stands for any length); look at preprocess.resize, "
                f"crop, colour and layout ({self._preprocess.layout})"
            )
        like = self._like = self._like or (row, item.shape)
        if item.shape != like[1]:
            raise InvalidData(
                f"{row} has shape {list(item.shape)} and {like[0]} has {list(like[1])}; expected "
                "images of one size, or preprocess.resize or crop that makes them so"
            )
        return item


@contextmanager
def open_images(folder: ImageFolder, signature: Signature) -> Iterator[ImageFile]:
    """Open a folder of images.

    Raises:
        InvalidData: It is not laid out as expected, the model has several inputs, or Pillow is
            missing.
    """
    name = folder.path.name
    spec = single_input(name, "an image folder", signature)
    require_library("PIL", "Pillow", name)
    yield ImageFile(name, list_images(folder.path), spec, folder.preprocess)
