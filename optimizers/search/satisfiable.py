"""Requirements that no recipe can meet, told before time is spent on trials.

Each is compared with the best that a cost model allows, on the side of the requirement: what is
reported is impossible, what is not reported may be.

    time     a run takes at least half of what the original's spends outside of its nodes; steps
             change nodes, and the rest is what starting a run costs (half, because how a session
             is opened changes that too, and because it was itself measured)
    size     the fewest bytes of weights, see `smallest`
    memory   the same: weights are held in some form
    answers  a variant without any fault, with as many items as the search has (`sufficiency`)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from optimizers.contract.amounts import byte_count
from optimizers.contract.evaluation import Estimate, Figure
from optimizers.contract.evidence import Evidence
from optimizers.contract.goal import FIGURES, FigureName, Goal, Relation, Requirement
from optimizers.contract.search import Search
from optimizers.evaluation.limits import compare, figure_of, measured
from optimizers.evaluation.sufficiency import too_few_items
from optimizers.search.objectives import BEST_ANSWERS, search_alpha
from optimizers.search.smallest import smallest_weights

_STAYS: Final = 0.5
"""Of the time outside of nodes, what every recipe leaves."""
_RELATIVE: Final = (Relation.RELATIVE_GAIN, Relation.RELATIVE_LOSS)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Best:
    """The best that a figure can become.

    Attributes:
        value: In the figure's unit.
        original: The original's; None where it is not known.
        text: Where it comes from, with its numbers.
    """

    value: float
    original: float | None
    text: str


def unsatisfiable(
    goal: Goal, evidence: Evidence, original: Sequence[Figure], search: Search | None = None
) -> tuple[str, ...]:
    """One sentence with its numbers for all of a goal that no recipe can reach; () if none.

    Args:
        goal: With the task's floors (`Assessor.goal`).
        evidence: What is known of the model.
        original: The original beside itself, `Assessor.original_figures()`.
        search: What may be tried; None: every step with all that it declares.
    """
    best = _best_figures(evidence, original, search)
    alpha = search_alpha(goal)
    why = {}
    for requirement in dict.fromkeys(goal.require):
        if requirement.figure in BEST_ANSWERS:
            reason = _why_not_answered(requirement, evidence, original, alpha)
        else:
            reason = _why_not_reached(requirement, best)
        if reason:
            why[requirement.text] = f"'{requirement.text}' cannot be met: {reason}"
    for name in goal.optimize:
        if name in BEST_ANSWERS and measured(original, name) is None:
            why[name] = f"{name} cannot be optimised: {_why_unknown(name, evidence)}"
    first = goal.optimize[0]
    if FIGURES[first].compares:
        why[first] = (
            f"{first} compares with the original and cannot be better than it; name something "
            "else first in goal.optimize"
        )
    return tuple(why.values())


def _best_figures(
    evidence: Evidence, original: Sequence[Figure], search: Search | None
) -> dict[FigureName, _Best]:
    outside_s = evidence.item_s * evidence.outside_share
    floor_s = _STAYS * outside_s
    time = _Best(
        value=floor_s,
        original=evidence.item_s,
        text=(
            f"of {1e6 * evidence.item_s:.4g} µs a run spends {1e6 * outside_s:.4g} µs outside of "
            f"its nodes, of which at least {1e6 * floor_s:.4g} µs stay whatever becomes of these"
        ),
    )
    weights = smallest_weights(evidence, search)
    text = (
        f"its weights take {byte_count(evidence.weight_bytes)} and at least "
        f"{byte_count(weights.size_bytes)} after any recipe ({weights.text})"
    )
    sizes = (one.value.value for one in original if one.name is FigureName.SIZE)
    return {
        FigureName.LATENCY_P50: time,
        # Slow runs are not known, so that no gain over them is called impossible.
        FigureName.LATENCY_P99: replace(time, original=None),
        FigureName.SIZE: _Best(value=weights.size_bytes, original=next(sizes, None), text=text),
        FigureName.MEMORY: _Best(value=weights.size_bytes, original=None, text=text),
    }


def _why_not_reached(requirement: Requirement, best: Mapping[FigureName, _Best]) -> str:
    known = best.get(requirement.figure)
    is_gain = requirement.relation is Relation.RELATIVE_GAIN
    if is_gain and FIGURES[requirement.figure].lower_is_better and requirement.limit >= 1:
        return f"nothing is left of {requirement.figure} after 100 % of it"
    if known is None:
        return ""
    figure = _ideal(requirement.figure, known)
    return known.text if compare(requirement, figure).is_lost else ""


def _ideal(name: FigureName, best: _Best) -> Figure:
    """The figure of a variant that is as good as can be."""

    def exact(value: float | None) -> Estimate | None:
        return None if value is None else Estimate(value=value, lower=value, upper=value)

    original = best.original or None
    value = Estimate(value=best.value, lower=best.value, upper=best.value)
    return Figure(
        name=name,
        unit=FIGURES[name].unit,
        samples=1,
        value=value,
        original=exact(original),
        difference=exact(None if original is None else best.value - original),
        ratio=exact(None if original is None else best.value / original),
    )


def _why_not_answered(
    requirement: Requirement, evidence: Evidence, original: Sequence[Figure], alpha: float
) -> str:
    name = requirement.figure
    if requirement.relation is Relation.ABSOLUTE and requirement.limit > BEST_ANSWERS[name]:
        unit = f" {FIGURES[name].unit}".rstrip()
        return f"{name} is at most {BEST_ANSWERS[name]:g}{unit}"
    if name is FigureName.ACCURACY and requirement.relation in _RELATIVE:
        return "a share of an accuracy has no bound; write it in points"
    figure = figure_of(requirement, original)
    if figure is None:
        return _why_unknown(name, evidence)
    if requirement.relation is Relation.GAIN and figure.original is not None:
        right = figure.original.lower
        if right is not None and requirement.limit > 1 - right:
            return (
                f"the original is right in at least {right:.1%} of cases by its bound, so that "
                f"{100 * (1 - right):.3g} points are the most that can be gained"
            )
    too_few = too_few_items(requirement, figure, alpha)
    return f"data.search is too small to show it: {too_few}" if too_few else ""


def _why_unknown(name: FigureName, evidence: Evidence) -> str:
    """Why a figure of the answers is not known of the original either."""
    if not evidence.data.get("search"):
        return "no data to compare answers on is declared; name some as data.search in hone.yaml"
    labels = ", or the data has no labels" if name is FigureName.ACCURACY else ""
    return f"this model's answers have no {name} with task {evidence.task}{labels}"
