"""From values to places on an axis: its ends, its ticks, and what lies beyond."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

_TICKS: Final = 7
_MARGIN: Final = 0.06
_FEW: Final = 5
"""Of fewer values none is called an outlier."""
_FENCE: Final = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One axis of a plot.

    Attributes:
        name: What it counts, with its unit.
        low: Where it begins.
        high: Where it ends, above `low`.
        ticks: Round values in between, rising, and what is written there.
    """

    name: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]

    def place(self, value: float) -> float:
        """Where a value lies, in [0, 1] from `low` to `high`; what lies beyond, at the end."""
        return min(1.0, max(0.0, self.fraction(value)))

    def fraction(self, value: float) -> float:
        """Where a value lies, 0 at `low` and 1 at `high`."""
        return (value - self.low) / (self.high - self.low)

    def holds(self, value: float) -> bool:
        """Whether a value is on the axis."""
        return self.low <= value <= self.high


def axis(
    name: str,
    values: Sequence[float],
    *,
    shown: Sequence[float] = (),
    limits: Sequence[float] = (),
    largest: float | None = None,
) -> Axis:
    """An axis on which most values have room.

    Args:
        name: What it counts.
        values: Of all trials; outliers by Tukey's fences (Exploratory Data Analysis, 1977) may
            come to lie beyond its ends.
        shown: What must be on it.
        limits: Of requirements; one that is further away than the values are apart is left out.
        largest: No tick is above it.
    """
    kept = [*shown, *_within_fences(values)] or [0.0]
    low, high = min(kept), max(kept)
    span = high - low or abs(high) or 1.0
    near = [one for one in limits if low - span <= one <= high + span]
    low, high = min([low, *near]), max([high, *near])
    span = high - low or abs(high) or 1.0
    low, high = low - _MARGIN * span, high + _MARGIN * span
    return Axis(name=name, low=low, high=high, ticks=_ticks(low, high, largest))


def _within_fences(values: Sequence[float]) -> list[float]:
    if len(values) < _FEW:
        return list(values)
    first, third = (float(one) for one in np.percentile(values, (25, 75)))
    if first == third:
        return list(values)
    room = _FENCE * (third - first)
    return [one for one in values if first - room <= one <= third + room]


def _ticks(low: float, high: float, largest: float | None) -> tuple[tuple[float, str], ...]:
    rough = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    last = high if largest is None else min(high, largest + step * 1e-9)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if step < 2.6 * power and step > 2.4 * power:
        decimals = max(0, 1 - math.floor(math.log10(power)))
    first, end = math.ceil(low / step - 1e-9), math.floor(last / step + 1e-9)
    return tuple((index * step, f"{index * step:.{decimals}f}") for index in range(first, end + 1))
