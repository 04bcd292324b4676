"""Folders of small images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from optimizers.contract.signature import Signature, TensorSpec


def noise(seed: int, height: int = 8, width: int = 8) -> NDArray[np.uint8]:
    """Random RGB pixels."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def save(path: Path, pixels: NDArray[Any], mode: str | None = None) -> Path:
    """Write pixels as the file's suffix says, perhaps in another of Pillow's modes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)
    return path


def folder(home: Path, classes: int = 3, each: int = 4, seed: int = 0) -> Path:
    """`class0/0.png`, ...: another picture in every file."""
    for label in range(classes):
        for number in range(each):
            pixels = noise(seed * 10_000 + label * each + number)
            save(home / f"class{label}" / f"{number}.png", pixels)
    return home


def takes(*shape: int, datatype: str = "FP32", classes: int | None = None) -> Signature:
    """A model with one input `image` of items x `shape`, and perhaps items x `classes`."""
    inputs = (TensorSpec(name="image", datatype=datatype, shape=(-1, *shape)),)
    outputs = (TensorSpec(name="scores", datatype="FP32", shape=(-1, classes or -1)),)
    return Signature(inputs=inputs, outputs=outputs if classes else ())
