"""How far two arrays are apart: the one measure that gates and golden checks share."""

from __future__ import annotations

import sys
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_ROUNDING: Final = 1e-3

INCOMPARABLE: Final = sys.float_info.max
"""The difference of what has none: finite, because JSON knows no infinity."""


def largest_difference(one: NDArray[Any], other: NDArray[Any]) -> float:
    """The largest absolute difference of two arrays of one shape, always a finite number.

    Equal values agree even if they are not finite. It is `INCOMPARABLE` where only one is finite,
    where a text, a boolean or a whole number differs, and where the shapes do.
    """
    if one.shape != other.shape:
        return INCOMPARABLE
    if one.dtype.kind != "f":
        return 0.0 if np.array_equal(one, other) else INCOMPARABLE
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.abs(one.astype(np.float64) - other.astype(np.float64))
    comparable = np.where(np.isfinite(difference), difference, INCOMPARABLE)
    return float(np.max(np.where(same, 0.0, comparable), initial=0.0))


def largest_magnitude(array: NDArray[Any]) -> float:
    """The largest absolute value among the finite ones of a floating array; 0 without any."""
    return float(np.max(np.abs(array[np.isfinite(array)]), initial=0.0))


def are_close(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether two answers differ by no more than rounding, measured by `other`'s largest value."""
    scale = largest_magnitude(other) if other.dtype.kind == "f" else 0.0
    return largest_difference(one, other) <= _ROUNDING * max(scale, 1e-6)
