"""How far two arrays are apart: the one measure that gates and golden checks share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def largest_difference(one: NDArray[Any], other: NDArray[Any]) -> float:
    """The largest absolute difference of two arrays of one shape.

    Equal values agree even if they are not finite. It is infinite where only one is finite, where
    a text, a boolean or a whole number differs, and where the shapes do.
    """
    if one.shape != other.shape:
        return float("inf")
    if one.dtype.kind != "f":
        return 0.0 if np.array_equal(one, other) else float("inf")
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    with np.errstate(invalid="ignore"):
        difference = np.abs(one.astype(np.float64) - other.astype(np.float64))
    difference = np.where(same, 0.0, np.where(np.isfinite(difference), difference, np.inf))
    return float(np.max(difference, initial=0.0))
