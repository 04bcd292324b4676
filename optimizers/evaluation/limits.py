"""What a requirement compares with which limit, and which bound of it decides."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from optimizers.contract.evaluation import Estimate, Figure
from optimizers.contract.goal import FIGURES, FigureName, Relation, Requirement

SESSIONS_DIFFER: Final = 0.02
"""By so much two sessions of one file may differ for as long as they are open: where their pages
and threads come to lie is no merit of a variant's."""

_EXACT: Final = (FigureName.SIZE, FigureName.ACCURACY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A quantity with bounds beside the limit that it has to keep.

    Attributes:
        estimate: The quantity; None: there is nothing to compare.
        limit: In the unit of the estimate.
        lower_is_better: Whether it may be at most the limit, rather than at least.
        is_strict: Whether the limit itself is not good enough.
    """

    estimate: Estimate | None
    limit: float
    lower_is_better: bool
    is_strict: bool = False

    @property
    def against(self) -> float | None:
        """The bound that speaks against the variant."""
        if self.estimate is None:
            return None
        return self.estimate.upper if self.lower_is_better else self.estimate.lower

    @property
    def favourable(self) -> float | None:
        """The bound that speaks for the variant."""
        if self.estimate is None:
            return None
        return self.estimate.lower if self.lower_is_better else self.estimate.upper

    @property
    def holds(self) -> bool:
        """Whether the limit is kept by the bound that speaks against the variant."""
        return self.against is not None and self._is_kept_by(self.against)

    @property
    def is_lost(self) -> bool:
        """Whether the limit is missed by the bound that speaks for the variant."""
        return self.favourable is not None and not self._is_kept_by(self.favourable)

    def _is_kept_by(self, bound: float) -> bool:
        if bound == self.limit:
            return not self.is_strict
        return bound < self.limit if self.lower_is_better else bound > self.limit


def measured(figures: Iterable[Figure], name: FigureName, under: str = "") -> Figure | None:
    """The first figure of that name, on items to which `under` was done; None without one."""
    return next((one for one in figures if one.name is name and one.under == under), None)


def figure_of(requirement: Requirement, figures: Iterable[Figure]) -> Figure | None:
    """What was measured of a requirement; None if nothing was."""
    under = requirement.under
    return measured(figures, requirement.figure, under.text if under else "")


def compare(requirement: Requirement, figure: Figure) -> Comparison:
    """What a requirement compares: the figure, its difference or its ratio, with the limit."""
    lower_is_better = FIGURES[requirement.figure].lower_is_better
    limit = requirement.limit
    estimate: Estimate | None
    match requirement.relation:
        case Relation.ABSOLUTE:
            estimate = figure.value
        case Relation.GAIN:
            estimate, limit = figure.difference, -limit if lower_is_better else limit
        case Relation.LOSS:
            estimate, limit = figure.difference, limit if lower_is_better else -limit
        case Relation.RELATIVE_GAIN:
            estimate, limit = figure.ratio, 1 - limit if lower_is_better else 1 + limit
        case Relation.RELATIVE_LOSS:
            estimate, limit = figure.ratio, 1 + limit if lower_is_better else 1 - limit
    return Comparison(estimate=estimate, limit=limit, lower_is_better=lower_is_better)


def beside_original(figure: Figure) -> Estimate | None:
    """Of an accuracy the difference to the original's, of anything else the ratio."""
    return figure.difference if figure.name is FigureName.ACCURACY else figure.ratio


def compare_with_original(figure: Figure) -> Comparison:
    """A figure beside the original's, which it has to beat by more than sessions differ."""
    name = figure.name
    even = 0.0 if name is FigureName.ACCURACY else 1.0
    margin = 0.0 if name in _EXACT else SESSIONS_DIFFER
    lower_is_better = FIGURES[name].lower_is_better
    return Comparison(
        estimate=beside_original(figure),
        limit=even - margin if lower_is_better else even + margin,
        lower_is_better=lower_is_better,
        is_strict=True,
    )
