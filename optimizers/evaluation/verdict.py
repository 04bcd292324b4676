"""From figures to a verdict: every requirement on its conservative bound, all of them jointly."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Final

from optimizers.contract.amounts import quantity
from optimizers.contract.evaluation import Check, Estimate, Figure, Gate, Verdict
from optimizers.contract.goal import FIGURES, FigureName, Goal, Relation, Requirement
from optimizers.evaluation.limits import SESSIONS_DIFFER, compare, compare_with_original
from optimizers.evaluation.sufficiency import too_few_items

NOT_MEASURED: Final = "it was not measured"


def check_requirement(
    requirement: Requirement,
    figure: Figure | None,
    gate: Gate,
    alpha: float,
    missing: str = NOT_MEASURED,
) -> Check:
    """Whether one requirement holds by the bound that speaks against the variant.

    Args:
        requirement: What must hold.
        figure: What was measured of it, if anything.
        gate: Where it is judged.
        alpha: Error probability of the bound.
        missing: Why nothing was measured.
    """

    def unjudged(why: str) -> Check:
        text = f"'{requirement.text}' could not be judged: {why}"
        return Check(gate=gate, passed=None, text=text)

    if figure is None:
        return unjudged(missing)
    compared = compare(requirement, figure)
    estimate, bound, holds = compared.estimate, compared.against, compared.holds
    too_few = None if holds else too_few_items(requirement, figure, alpha)
    if too_few is not None:
        return unjudged(too_few)
    if estimate is None or bound is None:
        return unjudged(_no_bound(requirement, figure))
    return Check(gate=gate, passed=holds, text=_sentence(requirement, figure, estimate, bound))


def check_better(
    goal: Goal, figure: Figure | None, gate: Gate, missing: str = NOT_MEASURED
) -> Check:
    """Whether the variant is better at what the goal optimises first."""
    name = goal.optimize[0]
    kind = FIGURES[name]
    if kind.compares:
        text = f"{name} compares with the original and cannot be better than it"
        return Check(gate=gate, passed=None, text=f"{text}; optimise something else")
    if figure is None:
        return Check(gate=gate, passed=None, text=f"{name} could not be judged: {missing}")
    compared = compare_with_original(figure)
    bound, passed = compared.against, compared.holds
    if bound is None:
        text = f"{name} has no bound: {figure.counted} are too few ({figure.method})"
        return Check(gate=gate, passed=None, text=text)
    word = "better" if passed else "not better"
    text = f"{name} is {word} than the original's"
    even = 0.0 if name is FigureName.ACCURACY else 1.0
    if not passed and (bound < even if kind.lower_is_better else bound > even):
        margin = abs(compared.limit - even)
        text += f" by more than {margin:.0%}, by which two sessions of one file may differ"
    return Check(gate=gate, passed=passed, text=f"{text}: {_numbers(figure)}")


def is_clear(goal: Goal, ratio: Estimate, names: Set[FigureName]) -> bool:
    """Whether bounds of a ratio settle all that the goal asks of figures measured together.

    They do when nothing but being better is asked, and the variant surely is or surely is not.
    """
    if any(requirement.figure in names for requirement in goal.require):
        return False
    aim = goal.optimize[0]
    if aim not in names or ratio.lower is None or ratio.upper is None:
        return False
    return ratio.upper < 1 - SESSIONS_DIFFER or ratio.lower > 1 + SESSIONS_DIFFER


def conclude(checks: Sequence[Check]) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict that follows from all checks, and why unless it is `proved`."""
    broken = tuple(check.text for check in checks if check.passed is False)
    if broken:
        return Verdict.REFUSED, broken
    unjudged = tuple(check.text for check in checks if check.passed is None)
    if unjudged:
        return Verdict.NOT_JUDGED, unjudged
    return Verdict.PROVED, ()


def _no_bound(requirement: Requirement, figure: Figure) -> str:
    relative = requirement.relation in (Relation.RELATIVE_GAIN, Relation.RELATIVE_LOSS)
    if requirement.figure is FigureName.ACCURACY and relative:
        return "a share of an accuracy has no bound; write it in points"
    return f"{figure.counted} are too few for a bound at this confidence ({figure.method})"


def _sentence(requirement: Requirement, figure: Figure, estimate: Estimate, bound: float) -> str:
    name = requirement.figure
    kind = FIGURES[name]
    if requirement.relation is Relation.ABSOLUTE:
        side = "at most" if kind.lower_is_better else "at least"
        found = f"{side} {_amount(name, bound)} (measured {_amount(name, estimate.value)})"
    elif requirement.relation in (Relation.RELATIVE_GAIN, Relation.RELATIVE_LOSS):
        found = f"{_change(bound)} (measured {_change(estimate.value)})"
    else:
        found = f"{_signed(name, bound)} (measured {_signed(name, estimate.value)})"
    return f"'{requirement.text}': by its bound {name} is {found}, {figure.counted}"


def _numbers(figure: Figure) -> str:
    relative = figure.ratio
    text = _amount(figure.name, figure.value.value)
    if figure.original is not None:
        text += f" against {_amount(figure.name, figure.original.value)}"
    if figure.name is FigureName.ACCURACY and figure.difference is not None:
        difference = figure.difference
        bounds = f"{100 * (difference.lower or 0):+.2f} to {100 * (difference.upper or 0):+.2f}"
        return f"{text}, {bounds} points, {figure.counted}"
    if relative is not None and relative.lower is not None and relative.upper is not None:
        text += f", ratio {relative.value:.3f} within [{relative.lower:.3f}, {relative.upper:.3f}]"
    return f"{text}, {figure.counted}"


def _amount(name: FigureName, value: float) -> str:
    return quantity(FIGURES[name].unit, value)


def _signed(name: FigureName, value: float) -> str:
    if name is FigureName.ACCURACY:
        return f"{100 * value:+.2f} points"
    sign = "+" if value >= 0 else "-"
    return f"{sign}{_amount(name, abs(value))}"


def _change(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f} % of the original's"
