"""One image file to one image, and nothing that a file may do to whoever opens it."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from optimizers.contract.errors import InvalidData
from optimizers.contract.preprocessing import LARGEST_SIDE

if TYPE_CHECKING:
    from PIL.Image import Image

_FORMATS: Final = ("PNG", "JPEG")
_MOST_PIXELS: Final = 1 << 26
_LARGEST_FILE_BYTES: Final = 256 << 20
_UNREADABLE: Final = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error)
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_PNG_DEPTH_AT: Final = 24
_MODES: Final = {
    "1": "1 bit a pixel",
    "P": "a palette",
    "PA": "a palette with alpha",
    "LA": "grey with alpha",
    "La": "grey with alpha",
    "RGBA": "RGB with alpha",
    "RGBX": "RGB with alpha",
    "RGBa": "RGB with alpha",
    "CMYK": "CMYK",
    "YCbCr": "YCbCr",
    "I": "16 bits a channel",
    "I;16": "16 bits a channel",
    "I;16B": "16 bits a channel",
}
_EXPECTED: Final = "grey or RGB with 8 bits a channel"


def decode(path: Path, row: str) -> Image:
    """Decode one `.png` or `.jpg` as it is stored; a note on its orientation changes nothing.

    Args:
        path: The file.
        row: How errors call it.

    Returns:
        An image of mode L (grey) or RGB.

    Raises:
        InvalidData: It is corrupt, too large, animated, or neither grey nor RGB with 8 bits.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        size = path.stat().st_size
        if size > _LARGEST_FILE_BYTES:
            raise InvalidData(f"{row} has {size} bytes, expected at most {_LARGEST_FILE_BYTES}")
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as image:
                _check(path, row, image)
                image.load()
                return image.copy()
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InvalidData(
            f"{row} has too many pixels, expected at most {_MOST_PIXELS}: {error}"
        ) from error
    except UnidentifiedImageError as error:
        raise InvalidData(f"{row} is neither a PNG nor a JPEG file") from error
    except _UNREADABLE as error:
        raise InvalidData(f"{row} cannot be decoded: {error}") from error


def _check(path: Path, row: str, image: Image) -> None:
    """Look at the header only: nothing was decoded or reserved yet."""
    width, height = image.size
    if max(width, height) > LARGEST_SIDE or width * height > _MOST_PIXELS:
        raise InvalidData(
            f"{row} has {width} x {height} pixels, expected at most {LARGEST_SIDE} a side and "
            f"{_MOST_PIXELS} in all"
        )
    depth = _png_depth(path)
    if depth == 16:  # Pillow would drop the lower 8 bits of RGB without a word
        raise InvalidData(f"{row} has 16 bits a channel, expected {_EXPECTED}")
    if image.mode not in ("L", "RGB"):
        kind = _MODES.get(image.mode, f"mode {image.mode}")
        raise InvalidData(f"{row} has {kind}, expected {_EXPECTED}")
    if "transparency" in image.info:
        raise InvalidData(f"{row} has a transparent colour, expected {_EXPECTED}")
    if depth is not None and getattr(image, "is_animated", False):
        raise InvalidData(f"{row} is animated, expected one picture")


def _png_depth(path: Path) -> int | None:
    """Bits a channel of a PNG, or None for another kind of file."""
    with path.open("rb") as file:
        head = file.read(_PNG_DEPTH_AT + 1)
    return head[_PNG_DEPTH_AT] if head.startswith(_PNG) and len(head) > _PNG_DEPTH_AT else None
