"""Where labels of points go so that none covers another, or another point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

MOST: Final = 200
"""Texts that are looked at for a place; more nobody could read."""

_STROKE: Final = 1.0
"""Half the width of a line, with some room."""

Spot = tuple[float, float]
"""Shares of an area's width and height, from its lower left corner."""
_Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Canvas:
    """An area to draw on, in any one unit of length.

    Attributes:
        width: Of the area.
        height: Of the area.
        character: Width of a label's character.
        line: Height of a label.
        radius: Of a point.
    """

    width: float
    height: float
    character: float
    line: float
    radius: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A text near a point.

    Attributes:
        text: What is written.
        at: Its middle.
    """

    text: str
    at: Spot


def place_labels(
    wanted: Sequence[tuple[str, Spot]],
    points: Sequence[Spot],
    canvas: Canvas,
    lines: Sequence[Sequence[Spot]] = (),
) -> tuple[Label, ...]:
    """Give each text a free place beside its point; one without any is left out.

    Args:
        wanted: Texts and their points, the most important first; no more than `MOST` get a place.
        points: All points that no text may cover.
        canvas: What is drawn on.
        lines: Corners of lines of upright and level parts that no text may cover, either.
    """
    boxes = [_around(point, 2 * canvas.radius, 2 * canvas.radius, canvas) for point in points]
    boxes += [_between(one, other, canvas) for line in lines for one, other in pairwise(line)]
    taken = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    placed: list[Label] = []
    for text, point in wanted[:MOST]:
        width, height = (len(text) + 0.7) * canvas.character, canvas.line
        for spot in _candidates(point, width, height, canvas):
            box = _around(spot, width, height, canvas)
            if _is_inside(box, canvas) and not _overlaps(box, taken):
                placed.append(Label(text=text, at=spot))
                taken = np.vstack([taken, box])
                break
    return tuple(placed)


def _candidates(point: Spot, width: float, height: float, canvas: Canvas) -> list[Spot]:
    """Middles of a box around a point: near ones first, right and above before left and below."""
    spots = []
    for gap in (1.3 * canvas.radius, 2.6 * canvas.radius, 4.5 * canvas.radius):
        aside, above = width / 2 + gap, height / 2 + gap
        spots += [
            (point[0] + x / canvas.width, point[1] + y / canvas.height)
            for x, y in (
                *((aside, 0.0), (0.0, above), (-aside, 0.0), (0.0, -above)),
                *((aside, above), (-aside, above), (aside, -above), (-aside, -above)),
            )
        ]
    return spots


def _around(spot: Spot, width: float, height: float, canvas: Canvas) -> _Box:
    x, y = spot[0] * canvas.width, spot[1] * canvas.height
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _between(one: Spot, other: Spot, canvas: Canvas) -> _Box:
    x = sorted(spot[0] * canvas.width for spot in (one, other))
    y = sorted(spot[1] * canvas.height for spot in (one, other))
    return x[0] - _STROKE, y[0] - _STROKE, x[1] + _STROKE, y[1] + _STROKE


def _is_inside(box: _Box, canvas: Canvas) -> bool:
    return box[0] >= 0 and box[1] >= 0 and box[2] <= canvas.width and box[3] <= canvas.height


def _overlaps(box: _Box, others: NDArray[np.float64]) -> bool:
    left, low, right, high = others.T
    return bool(np.any((box[0] < right) & (left < box[2]) & (box[1] < high) & (low < box[3])))
