"""What `preprocess` does to one image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from optimizers.contract.errors import InvalidData
from optimizers.contract.preprocessing import (
    LARGEST_SIDE,
    Colour,
    Layout,
    Preprocessing,
    Resampling,
)

if TYPE_CHECKING:
    from PIL.Image import Image


def prepared(image: Image, wish: Preprocessing, row: str) -> NDArray[Any]:
    """One image as a model's item.

    Args:
        image: Of mode L or RGB.
        wish: What is done to it.
        row: How errors call it.

    Returns:
        Channels x height x width, or height x width x channels, as `wish.layout` says: uint8 where
        no arithmetic is asked for, else float32 of y_c = (scale * x_c - mean_c) / std_c.

    Raises:
        InvalidData: The image has other colours, or is smaller than what is cut out of it.
    """
    image = _cropped(_resized(_coloured(image, wish.colour, row), wish, row), wish, row)
    pixels = np.asarray(image).reshape(image.height, image.width, -1)
    if wish.colour is Colour.BGR:
        pixels = pixels[:, :, ::-1]
    values = pixels if wish.keeps_bytes else _scaled(pixels, wish)
    if wish.layout is Layout.NCHW:
        values = values.transpose(2, 0, 1)
    return np.ascontiguousarray(values)


def _coloured(image: Image, colour: Colour, row: str) -> Image:
    """Grey becomes RGB without loss; the way back would lose something, so it is refused."""
    if colour is Colour.GREY:
        if image.mode != "L":
            raise InvalidData(f"{row} has RGB colours, expected grey (preprocess.colour: grey)")
        return image
    return image.convert("RGB")


def _resized(image: Image, wish: Preprocessing, row: str) -> Image:
    if wish.resize is None:
        return image
    height, width = _target(image, wish.resize)
    if max(height, width) > LARGEST_SIDE:
        raise InvalidData(
            f"{row} has {image.width} x {image.height} pixels and would be resized to {width} x "
            f"{height}, expected at most {LARGEST_SIDE} a side"
        )
    return image.resize((width, height), _filter(wish.resampling))


def _target(image: Image, resize: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width; the longer side is rounded down, as in torchvision."""
    if not isinstance(resize, int):
        return resize
    shorter, longer = sorted(image.size)
    other = int(resize * longer / shorter)
    return (resize, other) if image.height <= image.width else (other, resize)


def _filter(resampling: Resampling) -> Any:
    from PIL.Image import Resampling as Filter

    return Filter[resampling.name]


def _cropped(image: Image, wish: Preprocessing, row: str) -> Image:
    if wish.crop is None:
        return image
    height, width = wish.crop
    if image.height < height or image.width < width:
        raise InvalidData(
            f"{row} has {image.width} x {image.height} pixels after resizing, expected at least "
            f"{width} x {height} to cut out"
        )
    top = round((image.height - height) / 2)
    left = round((image.width - width) / 2)
    return image.crop((left, top, left + width, top + height))


def _scaled(pixels: NDArray[np.uint8], wish: Preprocessing) -> NDArray[np.float32]:
    mean = np.array(wish.mean or (0.0,))
    std = np.array(wish.std or (1.0,))
    values: NDArray[np.float64] = (wish.scale * pixels.astype(np.float64) - mean) / std
    return values.astype(np.float32)
