"""What a trial is judged by: aims to be minimised, what it misses, and whether it can still win.

Bounds decide everywhere, never a mean. What a trial is credited with is the bound that speaks
against it; what it is abandoned for is the bound that speaks for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from optimizers.contract.evaluation import Estimate, Figure
from optimizers.contract.goal import FIGURES, FigureName, Goal, Relation, Requirement
from optimizers.contract.study import Trial
from optimizers.evaluation.bounds import per_bound_alpha
from optimizers.evaluation.fidelity import LARGEST_SQNR_DB
from optimizers.evaluation.limits import (
    Comparison,
    beside_original,
    compare,
    compare_with_original,
    figure_of,
    measured,
)
from optimizers.search.wording import compared_amount

STRUCTURAL: Final = frozenset(
    {
        FigureName.SIZE,
        FigureName.LATENCY_P50,
        FigureName.LATENCY_P99,
        FigureName.THROUGHPUT,
        FigureName.COST,
        FigureName.MEMORY,
    }
)
"""Figures that follow from what a model is, not from what its weights have learned."""

BEST_ANSWERS: Final = {
    FigureName.ACCURACY: 1.0,
    FigureName.AGREEMENT: 1.0,
    FigureName.COSINE: 1.0,
    FigureName.SQNR: LARGEST_SQNR_DB,
}
"""What no model exceeds; of accuracy, also by how much it can exceed the original's."""

_UNKNOWN: Final = 1.0
"""What a requirement without a bound counts as missed by."""
_LEAST: Final = 1e-9
"""What a requirement counts as missed by at least, so that a miss never rounds to none."""
_NOTHING_SAID: Final[Mapping[FigureName, str]] = MappingProxyType({})


def search_alpha(goal: Goal) -> float:
    """Error probability of each bound of one trial: (1 - confidence) / bounds.

    All bounds that decide about one trial, of aims, requirements and `stop_when`, hold together at
    the goal's confidence (Bonferroni).
    Nothing is divided by the number of trials: figures of a search choose what to try and what
    goes to the gate, and the best of many is flattered by having been chosen. Its certificate
    comes from the gate's data, which no trial has seen.

    Args:
        goal: With the task's floors.
    """
    bounds = len(goal.optimize) + len(goal.require) + len(goal.stop_when)
    return per_bound_alpha(1 - goal.confidence, bounds)


def named_by(goal: Goal) -> frozenset[FigureName]:
    """Every figure that a search with this goal has to know."""
    asked = (*goal.require, *goal.stop_when)
    return frozenset((*goal.optimize, *(requirement.figure for requirement in asked)))


def objectives(goal: Goal, figures: Sequence[Figure]) -> tuple[float, ...]:
    """One number for each figure of `goal.optimize`, in that order, each to be minimised.

    By the bound that speaks against the variant: of times, bytes and cost ln(variant / original),
    of throughput the same negated; of accuracy the loss against the original; agreement, cosine
    and sqnr negated. 0 is even with the original where it is compared with. Infinite where a
    figure was not measured, or has no bound.
    """
    return tuple(_objective(name, measured(figures, name)) for name in goal.optimize)


def violation(goal: Goal, figures: Sequence[Figure], *, whole: bool = True) -> float:
    """By how much the goal is missed, summed over requirements; 0: it holds by every bound.

    A requirement is missed by the distance of the bound that speaks against the variant from the
    limit, as a share of the limit: of 0.9 where 0.97 is required, by 0.072. A limit on a gain or
    a loss is taken as what it makes of the original's figure. Being better than the original at
    the first aim is one of the requirements, as it is at the gate.

    Args:
        goal: With the task's floors (`Assessor.goal`).
        figures: All that was measured of a trial so far.
        whole: Whether what has no bound counts as missed, by 1; False: as held, for a trial that
            was not taken to its end.
    """
    total = 0.0
    for _, scale, comparison in _comparisons(goal, figures):
        if comparison is None or comparison.against is None:
            total += _UNKNOWN if whole else 0.0
        elif not comparison.holds:
            total += max(_LEAST, abs(comparison.against - comparison.limit) / scale)
    return total


def meets(requirements: Sequence[Requirement], figures: Sequence[Figure]) -> bool:
    """Whether all of them hold by the bounds that speak against the variant; False for none."""
    found = [(one, figure_of(one, figures)) for one in requirements]
    return bool(found) and all(
        figure is not None and compare(requirement, figure).holds for requirement, figure in found
    )


def cannot_win(goal: Goal, figures: Sequence[Figure], front: Sequence[Trial]) -> str:
    """Why a trial cannot become the winner or a member of the front, whatever is still measured.

    It cannot where a figure misses a requirement even by the bound that speaks for it, or where a
    feasible trial is at least as good in every aim, and better in one, by what both are credited
    with: what follows from a model's structure is measured once, so that no level to come changes
    what this trial is credited with. What is not measured yet is taken as the best there is; so are
    answers, because training changes them.

    Args:
        goal: With the task's floors.
        figures: All that was measured of it so far.
        front: Trials of the front; only feasible ones count.

    Returns:
        A sentence with its numbers; "" where it may win.
    """
    settled = [one for one in figures if one.name in STRUCTURAL]
    for requirement in goal.require:
        figure = figure_of(requirement, settled)
        if figure is not None and (compared := compare(requirement, figure)).is_lost:
            said = _at_best(requirement.figure, requirement.relation, compared)
            return f"'{requirement.text}' cannot be met: {said}"
    aim = measured(settled, goal.optimize[0])
    if aim is not None and compare_with_original(aim).is_lost:
        return (
            f"{aim.name} cannot become better than the original's: "
            f"{_at_best(aim.name, Relation.RELATIVE_GAIN, compare_with_original(aim))}"
        )
    best = tuple(_best(name, measured(settled, name)) for name in goal.optimize)
    for trial in front:
        theirs = objectives(goal, trial.figures)
        if trial.is_feasible and dominates(theirs, best):
            return f"trial {trial.number} is better whatever comes: {_beside(goal, theirs, best)}"
    return ""


def never_known(
    goal: Goal, figures: Sequence[Figure], missing: Mapping[FigureName, str] = _NOTHING_SAID
) -> str:
    """Why a trial cannot hold the goal although no bound speaks against it.

    Times, memory, size and cost are measured at the level of structure and at no other. What must
    hold of them and was not had there, because others used the machine or runs are too long for a
    bound, counts as missed in the end, whatever is trained until then.

    Args:
        goal: With the task's floors.
        figures: All that was measured at the level of structure.
        missing: Figures that were wanted there and not had, and why.

    Returns:
        A sentence; "" where all is known.
    """
    for name, _, comparison in _comparisons(goal, figures):
        if name in STRUCTURAL and (comparison is None or comparison.against is None):
            why = missing.get(name, "not measured, or without a bound")
            return f"{name} could not be judged: {why}, and no later level measures it"
    return ""


def why_given_up(goal: Goal, trial: Trial, front: Sequence[Trial]) -> str:
    """Why a trial is not taken further, see `cannot_win` and `never_known`; "" where it may win."""
    return cannot_win(goal, trial.figures, front) or never_known(goal, trial.figures, trial.missing)


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether `one` is nowhere worse and somewhere better; smaller is better."""
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def _comparisons(
    goal: Goal, figures: Sequence[Figure]
) -> Iterable[tuple[FigureName, float, Comparison | None]]:
    """What must hold: the figure, what it is missed in shares of, and what it compares."""
    for requirement in goal.require:
        name, figure = requirement.figure, figure_of(requirement, figures)
        if figure is None:
            yield name, 1.0, None
        else:
            comparison = compare(requirement, figure)
            yield name, _scale(requirement, figure, comparison.limit), comparison
    name = goal.optimize[0]
    if not FIGURES[name].compares:
        figure = measured(figures, name)
        yield name, 1.0, None if figure is None else compare_with_original(figure)


def _scale(requirement: Requirement, figure: Figure, limit: float) -> float:
    if requirement.relation in (Relation.GAIN, Relation.LOSS) and figure.original is not None:
        limit += figure.original.value
    return abs(limit) or 1.0


def _objective(name: FigureName, figure: Figure | None) -> float:
    estimate = None if figure is None else _compared(figure)
    if estimate is None:
        return math.inf
    bound = estimate.upper if FIGURES[name].lower_is_better else estimate.lower
    return math.inf if bound is None else _to_minimise(name, bound)


def _best(name: FigureName, figure: Figure | None) -> float:
    """The smallest objective that a trial can end with."""
    if name in BEST_ANSWERS:
        return -BEST_ANSWERS[name]
    return -math.inf if figure is None else _objective(name, figure)


def _compared(figure: Figure) -> Estimate | None:
    return figure.value if FIGURES[figure.name].compares else beside_original(figure)


def _to_minimise(name: FigureName, bound: float) -> float:
    if name in BEST_ANSWERS:
        return -bound
    logarithm = math.log(bound) if bound > 0 else -math.inf
    return logarithm if FIGURES[name].lower_is_better else -logarithm


def _at_best(name: FigureName, relation: Relation, comparison: Comparison) -> str:
    side = "at least" if comparison.lower_is_better else "at most"
    assert comparison.favourable is not None
    bound, limit = (
        compared_amount(name, relation, one) for one in (comparison.favourable, comparison.limit)
    )
    return f"it is {side} {bound} by its bound, the limit is {limit}"


def _beside(goal: Goal, theirs: Sequence[float], best: Sequence[float]) -> str:
    return ", ".join(
        f"{name} {_shown(name, one)} there, {_shown(name, other)} here"
        + (" at best" if name in BEST_ANSWERS else "")
        for name, one, other in zip(goal.optimize, theirs, best, strict=True)
    )


def _shown(name: FigureName, objective: float) -> str:
    """An objective as what it stands for: a ratio to the original's, a difference, a value."""
    if name is FigureName.ACCURACY:
        return f"{-100 * objective:+.2f} points"
    if FIGURES[name].compares:
        return f"{-objective:.4g}"
    ratio = math.exp(objective if FIGURES[name].lower_is_better else -objective)
    return f"{ratio:.3f} of the original's"
