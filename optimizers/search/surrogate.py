"""What recipes will come to, from what their parts came to: a Bayesian linear model.

Logarithms of times and sizes add up where factors multiply, so that a recipe is predicted as the
sum of the effects of its steps and of their values. The posterior is that of a linear model with
normal prior and noise (Bishop, Pattern Recognition and Machine Learning, 2006, eq. 3.50-3.59); it
knows how little it knows of what was not tried.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log
from typing import Final

import numpy as np
from numpy.typing import NDArray

from optimizers.contract.declaration import Choice, Range, Value

Array = NDArray[np.float64]

_FEWEST_OF_A_SCALE: Final = 3
_LOGARITHMIC: Final = 8.0
"""Numbers whose largest is so many times their smallest lie on a scale of logarithms."""


class Features:
    """Recipes as rows of numbers.

    A dimension that a recipe does not ask is all zeros, so that the original, which asks nothing,
    is the origin. A choice has a column for each value; a range, and a choice of at least three
    numbers, has one that says it is asked, and its place in [0, 1] and the square of that.

    Args:
        dimensions: Of the space (`Space.dimensions`).
    """

    def __init__(self, dimensions: Mapping[str, Range]) -> None:
        self._scales = {name: _scale(one) for name, one in dimensions.items()}
        self._columns: dict[tuple[str, object], int] = {}
        for name, one in dimensions.items():
            asked = ("asked", "place", "square") if self._scales[name] else _values(one)
            for value in asked:
                self._columns[name, value] = len(self._columns)

    def of(self, answers: Mapping[str, Value]) -> Array:
        """The row of a recipe.

        Args:
            answers: What was answered for it (`Space.parameters`).

        Returns:
            float64 of shape (columns,).
        """
        row = np.zeros(len(self._columns))
        for name, value in answers.items():
            scale = self._scales[name]
            if scale is None:
                row[self._columns[name, value]] = 1.0
            else:
                place = scale(value)
                row[self._columns[name, "asked"]] = 1.0
                row[self._columns[name, "place"]] = place
                row[self._columns[name, "square"]] = place**2
        return row


class LinearModel:
    """A quantity as a weighted sum of features.

    Args:
        rows: float64 of shape (n, columns).
        values: float64 of shape (n,).
        spread: Standard deviation of a weight before anything is known, above 0.
        noise: Standard deviation of what the sum cannot explain, above 0.
    """

    def __init__(self, rows: Array, values: Array, *, spread: float, noise: float) -> None:
        precision = rows.T @ rows / noise**2 + np.eye(rows.shape[1]) / spread**2
        self._covariance = np.linalg.inv(precision)
        self._mean = self._covariance @ (rows.T @ values) / noise**2
        self._noise = noise

    def predict(self, rows: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the quantity for each row, both of shape (n,)."""
        variance = np.einsum("ij,jk,ik->i", rows, self._covariance, rows)
        return rows @ self._mean, np.sqrt(variance + self._noise**2)


class _Scale:
    """Where a number lies between the smallest and the largest, in [0, 1]."""

    def __init__(self, low: float, high: float, *, logarithmic: bool) -> None:
        self._logarithmic = logarithmic
        self._low, self._high = self._placed(low), self._placed(high)

    def __call__(self, value: Value) -> float:
        return (self._placed(float(value)) - self._low) / (self._high - self._low)

    def _placed(self, value: float) -> float:
        return log(value) if self._logarithmic else value


def _scale(one: Range) -> _Scale | None:
    """None where values have no order that is known."""
    if not isinstance(one, Choice):
        return _Scale(one.low, one.high, logarithmic=one.log) if one.high > one.low else None
    numbers = [
        float(value)
        for value in one.values
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    if len(numbers) < max(_FEWEST_OF_A_SCALE, len(one.values)):
        return None
    low, high = min(numbers), max(numbers)
    return _Scale(low, high, logarithmic=low > 0 and high >= _LOGARITHMIC * low)


def _values(one: Range) -> Sequence[Value]:
    return one.values if isinstance(one, Choice) else (one.low,)
