"""What an axis of a plot counts, and where trials, the original and limits lie on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from optimizers.contract.evaluation import Estimate, Figure
from optimizers.contract.goal import FIGURES, FigureName, Relation, Requirement
from optimizers.contract.study import Trial
from optimizers.search.wording import SHARES

_SCALES: Final = {"s": (1e3, "ms"), "B": (2.0**-20, "MiB"), "/1000": (1.0, "per 1000 items")}
_PERFECT: Final = frozenset({FigureName.AGREEMENT, FigureName.COSINE})
"""Figures in which the original, compared with itself, has 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """One figure as an axis.

    Figures that were measured beside the original are drawn as what they are relative to it, times
    the median of the original's values in all trials: a machine that was slow for a minute moves
    no trial.

    Attributes:
        figure: Which; None: the trials' numbers.
        scale: From the figure's own unit to the axis's.
        unit: Of the axis; "" without one.
        original: Where the original lies, in the axis's unit; None if it lies nowhere.
    """

    figure: FigureName | None
    scale: float = 1.0
    unit: str = ""
    original: float | None = None

    @property
    def name(self) -> str:
        """What is written at the axis."""
        if self.figure is None:
            return "trial"
        return f"{self.figure}, {self.unit}" if self.unit else str(self.figure)

    @property
    def largest(self) -> float | None:
        """The largest value that makes sense, in the axis's unit."""
        if self.figure in SHARES or self.figure is FigureName.COSINE:
            return self.scale
        return None

    def of(self, trial: Trial) -> Estimate | None:
        """Where a trial lies, with bounds, in the axis's unit; None if that was not measured."""
        if self.figure is None:
            return Estimate(value=float(trial.number))
        figure = trial.figure(self.figure)
        return None if figure is None else self._placed(figure)

    def limit(self, requirement: Requirement) -> float | None:
        """Where a requirement's limit lies, in the axis's unit; None if it is on another figure."""
        if self.figure is None or requirement.figure is not self.figure or requirement.under:
            return None
        limit, sign = requirement.limit, 1 if FIGURES[self.figure].lower_is_better else -1
        if requirement.relation is Relation.ABSOLUTE:
            return limit * self.scale
        if self.original is None:
            return None
        match requirement.relation:
            case Relation.GAIN:
                return self.original - sign * limit * self.scale
            case Relation.LOSS:
                return self.original + sign * limit * self.scale
            case Relation.RELATIVE_GAIN:
                return self.original * (1 - sign * limit)
            case Relation.RELATIVE_LOSS:
                return self.original * (1 + sign * limit)

    def _placed(self, figure: Figure) -> Estimate:
        if self.original is not None and figure.name not in _PERFECT:
            if figure.name is FigureName.ACCURACY and figure.difference is not None:
                return _moved(figure.difference, factor=self.scale, offset=self.original)
            if figure.ratio is not None:
                return _moved(figure.ratio, factor=self.original)
        return _moved(figure.value, factor=self.scale)


def dimension(name: FigureName, trials: Sequence[Trial]) -> Dimension:
    """A figure as an axis for some trials."""
    scale, unit = _SCALES.get(FIGURES[name].unit, (1.0, FIGURES[name].unit))
    if name in SHARES:
        scale, unit = 100.0, "%"
    found = [figure for trial in trials if (figure := trial.figure(name)) is not None]
    originals = [one.original.value for one in found if one.original is not None]
    if name in _PERFECT:
        originals = [1.0]
    original = median(originals) * scale if originals else None
    return Dimension(figure=name, scale=scale, unit=unit, original=original)


def _moved(estimate: Estimate, *, factor: float, offset: float = 0.0) -> Estimate:
    low, high = estimate.lower, estimate.upper
    return Estimate(
        value=offset + factor * estimate.value,
        lower=None if low is None else offset + factor * low,
        upper=None if high is None else offset + factor * high,
    )
