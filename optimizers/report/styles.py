"""How marks look: shapes and colours that stay apart without colour vision and on paper.

Colours: Okabe and Ito, Color Universal Design, 2008.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from optimizers.report.marks import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """The look of one kind of mark.

    Attributes:
        colour: Of its inside, `#rrggbb`.
        marker: Its shape, as matplotlib names it.
        path: The same shape as an SVG path around (0, 0), about 8 units wide.
        size: How large it is beside the others.
    """

    colour: str
    marker: str
    path: str
    size: float = 1.0


_CIRCLE: Final = "M4 0A4 4 0 1 1 -4 0A4 4 0 1 1 4 0Z"
_STAR: Final = (
    "M0 -7L1.65 -2.27L6.66 -2.16L2.66 0.87L4.11 5.66L0 2.8L-4.11 5.66L-2.66 0.87L-6.66 -2.16"
    "L-1.65 -2.27Z"
)

STYLES: Final[dict[Kind, Style]] = {
    Kind.WINNER: Style(colour="#D55E00", marker="*", path=_STAR, size=2.2),
    Kind.HOLDS: Style(colour="#0072B2", marker="o", path=_CIRCLE),
    Kind.MISSES: Style(colour="#E69F00", marker="s", path="M-3.5 -3.5H3.5V3.5H-3.5Z"),
    Kind.HALVED: Style(colour="#CC79A7", marker="D", path="M0 -5L5 0L0 5L-5 0Z", size=0.9),
    Kind.ABANDONED: Style(colour="#56B4E9", marker="v", path="M-4.5 -3.5H4.5L0 4.5Z"),
    Kind.FAILED: Style(
        colour="#767676",
        marker="X",
        path="M-4 -2L-2 -4L0 -2L2 -4L4 -2L2 0L4 2L2 4L0 2L-2 4L-4 2L-2 0Z",
    ),
    Kind.RUNNING: Style(colour="#FFFFFF", marker="o", path=_CIRCLE),
    Kind.ORIGINAL: Style(
        colour="#009E73",
        marker="P",
        path="M-2 -5H2V-2H5V2H2V5H-2V2H-5V-2H-2Z",
        size=1.4,
    ),
}

DASHES: Final = ((6, 3), (2, 2), (8, 2, 2, 2), (1, 3), (10, 4))
"""Lines of limits: lengths of strokes and gaps, taken in turn."""
