"""How many items a requirement needs: what a variant without any fault could show with them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np

from optimizers.contract.evaluation import Figure
from optimizers.contract.goal import FigureName, Relation, Requirement
from optimizers.evaluation.bounds import clopper_pearson, mean_is_at_least, paired_difference
from optimizers.evaluation.fidelity import LARGEST_SQNR_DB, SQNR_QUANTILE

MOST_ITEMS: Final = 1 << 20
"""Nobody is told to bring more."""

_ACCURACY_RELATIONS: Final = (Relation.ABSOLUTE, Relation.GAIN, Relation.LOSS)


def too_few_items(requirement: Requirement, figure: Figure, alpha: float) -> str | None:
    """Why the items are too few to judge by, with how many are needed; None when they suffice.

    They are too few when not even a faultless variant could meet the requirement with them. None
    as well for a figure that is not made of items.

    Args:
        requirement: What must hold.
        figure: What was measured of it.
        alpha: Error probability of its bound.
    """
    could_hold = _could_hold(requirement, figure, alpha)
    if could_hold is None or could_hold(figure.samples):
        return None
    needed = _fewest(could_hold)
    if needed is None:
        return f"{_counted(figure)}, and not even {MOST_ITEMS} would do"
    return f"{_counted(figure)}, at least {needed} are needed"


def _counted(figure: Figure) -> str:
    return figure.counted if figure.of_items else f"{figure.samples} items"


def _could_hold(
    requirement: Requirement, figure: Figure, alpha: float
) -> Callable[[int], bool] | None:
    """Whether so many items without a fault would meet the requirement."""
    limit = requirement.limit
    match requirement.figure:
        case FigureName.AGREEMENT if figure.of_items:
            return lambda clusters: mean_is_at_least(np.ones(clusters), 0.0, 1.0, limit, alpha)
        case FigureName.AGREEMENT:
            return lambda items: _all_right(items, alpha) >= limit
        case FigureName.COSINE:
            return lambda items: mean_is_at_least(np.ones(items), -1.0, 1.0, limit, alpha)
        case FigureName.SQNR:
            return lambda items: limit <= LARGEST_SQNR_DB and (1 - SQNR_QUANTILE) ** items <= alpha
        case FigureName.ACCURACY if requirement.relation in _ACCURACY_RELATIONS:
            return _accuracy_could_hold(requirement, figure, alpha)
    return None


def _accuracy_could_hold(
    requirement: Requirement, figure: Figure, alpha: float
) -> Callable[[int], bool]:
    limit = requirement.limit
    if figure.of_items:
        return _accuracy_by_cluster_could_hold(requirement, figure, alpha)
    if requirement.relation is Relation.ABSOLUTE:
        return lambda items: _all_right(items, alpha) >= limit
    if requirement.relation is Relation.LOSS:
        # A variant that answers exactly like the original.
        return lambda items: _difference(0, items, alpha) >= -limit
    wrong = 0.0 if figure.original is None else 1 - figure.original.value
    return lambda items: _difference(math.floor(wrong * items + 0.5), items, alpha) >= limit


def _accuracy_by_cluster_could_hold(
    requirement: Requirement, figure: Figure, alpha: float
) -> Callable[[int], bool]:
    limit = requirement.limit
    if requirement.relation is Relation.ABSOLUTE:
        return lambda clusters: mean_is_at_least(np.ones(clusters), 0.0, 1.0, limit, alpha)
    if requirement.relation is Relation.LOSS:
        return lambda clusters: mean_is_at_least(np.zeros(clusters), -1.0, 1.0, -limit, alpha)
    # Gains spread evenly vary least, and so are proved with the fewest clusters.
    wrong = 0.0 if figure.original is None else 1 - figure.original.value
    return lambda clusters: mean_is_at_least(np.full(clusters, wrong), -1.0, 1.0, limit, alpha)


def _all_right(items: int, alpha: float) -> float:
    return clopper_pearson(items, items, alpha).lower or 0.0


def _difference(gains: int, items: int, alpha: float) -> float:
    return paired_difference(gains, 0, items, alpha).lower or 0.0


def _fewest(could_hold: Callable[[int], bool]) -> int | None:
    enough = 1
    while not could_hold(enough):
        enough *= 2
        if enough > MOST_ITEMS:
            return None
    short = enough // 2
    while enough - short > 1:
        middle = (short + enough) // 2
        if could_hold(middle):
            enough = middle
        else:
            short = middle
    return enough
