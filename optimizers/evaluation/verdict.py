"""From figures to a verdict: every requirement on its conservative bound, all of them jointly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from optimizers.contract.evaluation import Check, Estimate, Figure, Gate, Verdict
from optimizers.contract.goal import (
    FIGURES,
    FigureName,
    Goal,
    Relation,
    Requirement,
    parse_requirement,
)
from optimizers.contract.profile import Task

_DECLARE: Final = {
    FigureName.ACCURACY: "declare data.gate with `labels` in hone.yaml, and task: classification",
    FigureName.AGREEMENT: "declare data.gate in hone.yaml, and task: classification",
    FigureName.COSINE: "declare data.gate in hone.yaml",
    FigureName.SQNR: "declare data.gate in hone.yaml",
}
_FIDELITY: Final = frozenset({FigureName.ACCURACY, FigureName.AGREEMENT, FigureName.COSINE})
_AGREEMENT_FLOOR: Final = "agreement >= 0.95"
_COSINE_FLOOR: Final = "cosine >= 0.99"
_SQNR_FLOOR: Final = "sqnr >= 15 dB"


def with_floors(goal: Goal, task: Task) -> Goal:
    """The goal with the fidelity that everybody expects where the operator asked for none.

    An operator who accepts less says so: a requirement on the same figure replaces the floor.
    """
    named = {requirement.figure for requirement in goal.require}
    floors = []
    if not named & _FIDELITY:
        floors.append(_AGREEMENT_FLOOR if task is Task.CLASSIFICATION else _COSINE_FLOOR)
    if FigureName.SQNR not in named:
        floors.append(_SQNR_FLOOR)
    return Goal(
        optimize=goal.optimize,
        require=(*goal.require, *(parse_requirement(floor) for floor in floors)),
        confidence=goal.confidence,
    )


def check_requirement(requirement: Requirement, figure: Figure | None, gate: Gate) -> Check:
    """Whether one requirement holds by the bound that speaks against the variant."""
    if figure is None:
        what = _DECLARE.get(requirement.figure, "it was not measured")
        return Check(
            gate=gate,
            passed=None,
            text=f"'{requirement.text}' could not be judged: {what}",
        )
    lower_is_better = FIGURES[requirement.figure].lower_is_better
    estimate, limit, upper_counts = _against(requirement, figure, lower_is_better)
    bound = None if estimate is None else (estimate.upper if upper_counts else estimate.lower)
    if estimate is None or bound is None:
        return Check(
            gate=gate,
            passed=None,
            text=f"'{requirement.text}' could not be judged: {figure.samples} samples are too few "
            "for a bound at this confidence",
        )
    passed = bound <= limit if upper_counts else bound >= limit
    return Check(gate=gate, passed=passed, text=_sentence(requirement, figure, estimate, bound))


def check_better(goal: Goal, figure: Figure | None, gate: Gate) -> Check:
    """Whether the variant is better at what the goal optimises first."""
    name = goal.optimize[0]
    kind = FIGURES[name]
    if kind.compares:
        text = f"{name} compares with the original and cannot be better than it"
        return Check(gate=gate, passed=None, text=f"{text}; optimise something else")
    if figure is None:
        what = _DECLARE.get(name, "it was not measured")
        return Check(gate=gate, passed=None, text=f"{name} could not be judged: {what}")
    relative = figure.ratio if name is not FigureName.ACCURACY else figure.difference
    even = 1.0 if name is not FigureName.ACCURACY else 0.0
    bound = None
    if relative is not None:
        bound = relative.upper if kind.lower_is_better else relative.lower
    if relative is None or bound is None:
        text = f"{name} has no bound: {figure.samples} samples are too few"
        return Check(gate=gate, passed=None, text=text)
    passed = bound < even if kind.lower_is_better else bound > even
    word = "better" if passed else "not better"
    return Check(
        gate=gate,
        passed=passed,
        text=f"{name} is {word} than the original's: {_numbers(figure)}",
    )


def conclude(checks: Sequence[Check]) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict that follows from all checks, and why unless it is `proved`."""
    broken = tuple(check.text for check in checks if check.passed is False)
    if broken:
        return Verdict.REFUSED, broken
    unjudged = tuple(check.text for check in checks if check.passed is None)
    if unjudged:
        return Verdict.NOT_JUDGED, unjudged
    return Verdict.PROVED, ()


def _against(
    requirement: Requirement, figure: Figure, lower_is_better: bool
) -> tuple[Estimate | None, float, bool]:
    """The estimate, the limit, and whether its upper bound is the one that counts."""
    limit = requirement.limit
    match requirement.relation:
        case Relation.ABSOLUTE:
            return figure.value, limit, lower_is_better
        case Relation.GAIN:
            return figure.difference, -limit if lower_is_better else limit, lower_is_better
        case Relation.LOSS:
            return figure.difference, limit if lower_is_better else -limit, lower_is_better
        case Relation.RELATIVE_GAIN:
            return figure.ratio, 1 - limit if lower_is_better else 1 + limit, lower_is_better
        case Relation.RELATIVE_LOSS:
            return figure.ratio, 1 + limit if lower_is_better else 1 - limit, lower_is_better


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
    return f"'{requirement.text}': by its bound {name} is {found}, {figure.samples} samples"


def _numbers(figure: Figure) -> str:
    relative = figure.ratio
    text = _amount(figure.name, figure.value.value)
    if figure.original is not None:
        text += f" against {_amount(figure.name, figure.original.value)}"
    if figure.name is FigureName.ACCURACY and figure.difference is not None:
        difference = figure.difference
        bounds = f"{100 * (difference.lower or 0):+.2f} to {100 * (difference.upper or 0):+.2f}"
        return f"{text}, {bounds} points, {figure.samples} samples"
    if relative is not None and relative.lower is not None and relative.upper is not None:
        text += f", ratio {relative.value:.3f} within [{relative.lower:.3f}, {relative.upper:.3f}]"
    return f"{text}, {figure.samples} samples"


def _amount(name: FigureName, value: float) -> str:
    match FIGURES[name].unit:
        case "s":
            return f"{1e3 * value:.4g} ms"
        case "B":
            return f"{value / 2**20:.2f} MiB"
        case "":
            return f"{value:.4f}"
    return f"{value:.4g} {FIGURES[name].unit}"


def _signed(name: FigureName, value: float) -> str:
    if name is FigureName.ACCURACY:
        return f"{100 * value:+.2f} points"
    sign = "+" if value >= 0 else "-"
    return f"{sign}{_amount(name, abs(value))}"


def _change(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f} % of the original's"
