"""Crops of photographs as a classifier meets them, in parts that share no photograph."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.gains.photographs import Photograph

SIDE: Final = 224
_MEAN: Final = 127.0
_DEVIATION: Final = 128.0
"""As EfficientNet-Lite was trained: (pixel - 127) / 128 (its `preprocessing.py`)."""

Crops = NDArray[np.float32]
"""[items, 3, 224, 224], RGB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of the data.

    Attributes:
        photographs: How many are its own; the last part of a list gets all that are left.
        crops: Of each photograph.
        least_area: Smallest share of a photograph's largest square that a crop covers, in (0, 1].
        mirrored: Whether half of the crops are.
    """

    photographs: int
    crops: int
    least_area: float
    mirrored: bool


def split(
    photographs: list[Photograph], parts: dict[str, Part], seed: int
) -> dict[str, list[Photograph]]:
    """Deal out the photographs; the same seed deals the same way."""
    order = np.random.default_rng(seed).permutation(len(photographs))
    ends = np.cumsum([part.photographs for part in parts.values()])[:-1]
    return {
        name: [photographs[number] for number in numbers]
        for name, numbers in zip(parts, np.split(order, ends), strict=True)
    }


def crops_of(
    photographs: list[Photograph], part: Part, seed: int
) -> tuple[Crops, NDArray[np.str_]]:
    """Crops of each photograph, and of each crop the photograph's name.

    They are mixed, so that the first so many, which is what some steps look at, are of many
    photographs.
    """
    random = np.random.default_rng(seed)
    crops: list[Crops] = []
    for photograph in photographs:
        picture = photograph.picture()
        crops += [_crop(picture, part, random) for _ in range(part.crops)]
    names = np.repeat([one.name for one in photographs], part.crops)
    order = random.permutation(len(crops))
    return np.stack([crops[number] for number in order]), names[order]


def _crop(picture: Image.Image, part: Part, random: np.random.Generator) -> Crops:
    """A square from around the middle, where a photograph's subject mostly is."""
    whole = min(picture.size)
    side = whole * sqrt(random.uniform(part.least_area, 1.0))
    left, top = ((size - side) * (0.5 + random.uniform(-0.25, 0.25)) for size in picture.size)
    box = (left, top, left + side, top + side)
    pixels = picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
    if part.mirrored and random.random() < 0.5:
        pixels = pixels.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    scaled = (np.asarray(pixels, np.float32) - _MEAN) / _DEVIATION
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))
