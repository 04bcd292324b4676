"""Which images lie in a folder, and of which class each is."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from optimizers.contract.data_files import entries_below
from optimizers.contract.errors import InvalidData

_SUFFIXES: Final = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The images of a folder in the order in which they are read.

    The order is that of a digest of their names: always the same, and mixed, so that the first
    hundred are not all of the first class.

    Attributes:
        images: Name relative to the folder, and path.
        classes: Names of the classes, sorted; the number of a class is its label. Empty where the
            images lie in the folder itself.
    """

    images: tuple[tuple[str, Path], ...]
    classes: tuple[str, ...]

    def label(self, index: int) -> int:
        """The label of one image."""
        return self.classes.index(self.images[index][0].split("/")[0])


def list_images(folder: Path) -> Listing:
    """Look through `folder`: `CLASS/NAME.png|jpg|jpeg`, or `NAME.png|jpg|jpeg` without labels.

    An empty folder is a class without images.

    Raises:
        InvalidData: There are no images, other files, folders in folders, images both beside and
            in folders, or classes whose order is not plain.
    """
    entries = entries_below(folder)
    classes = tuple(name for name, path in entries if path.is_dir())
    images = [(name, path) for name, path in entries if not path.is_dir()]
    for name, _ in images:
        _check_suffix(folder, name)
    for name in classes:
        if "/" in name:
            raise InvalidData(f"{folder.name}/{name} is a folder in a folder; {_expected()}")
    beside = [name for name, _ in images if "/" not in name]
    if classes and beside:
        raise InvalidData(f"{folder.name}/{beside[0]} lies beside folders; {_expected()}")
    if not images:
        raise InvalidData(f"{folder.name} holds no image; {_expected()}")
    _check_order(folder, classes)
    return Listing(images=tuple(sorted(images, key=_mixed)), classes=classes)


def _mixed(image: tuple[str, Path]) -> bytes:
    return hashlib.sha256(image[0].encode()).digest()


def _check_suffix(folder: Path, name: str) -> None:
    if not name.lower().endswith(_SUFFIXES):
        raise InvalidData(f"{folder.name}/{name} is no image; {_expected()}")


def _check_order(folder: Path, classes: Sequence[str]) -> None:
    """As texts, 10 comes before 2: who counts classes means something else."""
    if all(name.isdecimal() for name in classes):
        by_number = sorted(classes, key=int)
        if by_number != list(classes):
            raise InvalidData(
                f"{folder.name}: sorted by name the classes are {', '.join(classes[:4])}, ..., by "
                f"number {', '.join(by_number[:4])}, ...; expected names of one length, like 02"
            )


def _expected() -> str:
    kinds = ", ".join(_SUFFIXES)
    return f"expected files {kinds} in one folder a class, or all beside each other without labels"
