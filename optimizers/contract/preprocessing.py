"""How images become a model's input: declared in `hone.yaml`, never code."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from optimizers.contract.documents import Document, Path, shown, unknown_key
from optimizers.contract.errors import InvalidDocument

LARGEST_SIDE: Final = 16_384
"""Pixels; no image that is read or made is higher or wider."""


class Colour(StrEnum):
    """Which channels an item has, in this order."""

    RGB = "rgb"
    BGR = "bgr"
    GREY = "grey"

    @property
    def channels(self) -> int:
        """How many there are."""
        return 1 if self is Colour.GREY else 3


class Layout(StrEnum):
    """The order of an item's dimensions."""

    NCHW = "nchw"
    NHWC = "nhwc"


class Resampling(StrEnum):
    """How a resized pixel is computed; the names are Pillow's filters."""

    NEAREST = "nearest"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """What is done to every image, in this order: resize, crop, colour, scale, mean, std, layout.

    y_c = (scale * x_c - mean_c) / std_c with the pixels x_c in 0..255 of channel c.

    Attributes:
        resize: Length of the shorter side, 1..16384, the other in proportion; or (height, width);
            None keeps the size.
        resampling: How resized pixels are computed.
        crop: (height, width) cut out of the middle, each 1..16384; None keeps everything.
        colour: Which channels, and their order; `mean` and `std` follow it.
        scale: Factor of every pixel, above 0 and finite.
        mean: One finite number a channel; empty for none.
        std: One number above 0 a channel; empty for none.
        layout: Channels before or after height and width.
    """

    resize: int | tuple[int, int] | None = None
    resampling: Resampling = Resampling.BILINEAR
    crop: tuple[int, int] | None = None
    colour: Colour = Colour.RGB
    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    layout: Layout = Layout.NCHW

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            InvalidDocument: A value is out of range.
        """
        _check_sides("resize", self.resize)
        _check_sides("crop", self.crop)
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise _wrong("scale", "a finite number above 0", self.scale)
        _check_channels("mean", self.mean, self.colour)
        _check_channels("std", self.std, self.colour)
        if any(value <= 0 for value in self.std):
            raise _wrong("std", "numbers above 0", self.std)

    @property
    def keeps_bytes(self) -> bool:
        """Whether pixels stay whole numbers in 0..255."""
        return self.scale == 1.0 and not self.mean and not self.std

    def to_data(self) -> dict[str, Any]:
        """Plain data with the keys of `preprocess`."""
        return asdict(self)


def _check_sides(name: str, sides: int | tuple[int, int] | None) -> None:
    if sides is None:
        return
    given = (sides,) if isinstance(sides, int) else sides
    if any(not 1 <= side <= LARGEST_SIDE for side in given):
        raise _wrong(name, f"lengths from 1 to {LARGEST_SIDE}", sides)


def _check_channels(name: str, values: Sequence[float], colour: Colour) -> None:
    if values and len(values) != colour.channels:
        raise _wrong(name, f"{colour.channels} numbers for {colour}", tuple(values))
    if not all(math.isfinite(value) for value in values):
        raise _wrong(name, "finite numbers", tuple(values))


def _wrong(name: str, expected: str, value: object) -> InvalidDocument:
    return InvalidDocument(f"preprocess.{name} must be {expected}, got {shown(value)}")


_KEYS: Final = tuple(field.name for field in fields(Preprocessing))
_PREPROCESSING: Final = TypeAdapter(Preprocessing)


def preprocessing_from_data(data: object, document: Document, path: Path = ()) -> Preprocessing:
    """Read `preprocess` out of a document.

    Args:
        data: A mapping with the attributes of `Preprocessing` as keys.
        document: Where it stands, for errors.
        path: The keys that lead to it.

    Raises:
        InvalidDocument: A key is unknown, or a value has another type or is out of range.
    """
    if not isinstance(data, dict):
        raise document.error(path, f"expected a mapping, got {shown(data)}")
    for key in data:
        if key not in _KEYS:
            raise document.error((*path, key), unknown_key(str(key), _KEYS))
    for key, value in data.items():
        members = value if isinstance(value, list) else [value]
        if any(isinstance(member, bool) for member in members):
            raise document.error((*path, key), f"expected no true or false, got {shown(value)}")
    try:
        return _PREPROCESSING.validate_python(data)
    except InvalidDocument as error:
        raise document.error(path, str(error)) from error
    except ValidationError as error:
        first = error.errors()[0]
        key = (*path, first["loc"][0]) if first["loc"] else path
        raise document.error(key, f"{first['msg']}, got {shown(first['input'])}") from error


def preprocessing_document(text: str, source: str) -> Preprocessing:
    """Read a file that holds the keys of `preprocess`.

    Raises:
        InvalidDocument: It names the file, the line, the key and what was expected.
    """
    document = Document(text, source)
    return preprocessing_from_data(document.data, document)
