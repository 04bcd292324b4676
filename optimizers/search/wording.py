"""Figures as people read them: amounts with units, bounds, and the bound that counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from optimizers.contract.amounts import quantity
from optimizers.contract.evaluation import Estimate, Figure
from optimizers.contract.goal import FIGURES, FigureName, Relation

_MINUTE_S: Final = 60.0
_HOUR_S: Final = 3600.0
SHARES: Final = frozenset({FigureName.ACCURACY, FigureName.AGREEMENT})
"""Figures that are shares of the items."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a trial stands in one figure, by the bound that speaks against it.

    Attributes:
        score: To be minimised, comparable between trials of one search.
        text: The same for people: `at most 0.425 of the original's`.
    """

    score: float
    text: str


def standing(figure: Figure) -> Standing:
    """How good a figure surely is: its conservative bound, or its value where it has none.

    Timed and weighed figures count as shares of the original's from the same run, accuracy as a
    difference to it, figures that compare already as they are.
    """
    name, kind = figure.name, FIGURES[figure.name]
    side = "at most" if kind.lower_is_better else "at least"
    sign = 1 if kind.lower_is_better else -1
    if name is FigureName.ACCURACY and figure.difference is not None:
        worst = _worst(figure.difference, lower_is_better=False)
        return Standing(score=-worst, text=f"{side} {points(worst)} against the original")
    if figure.ratio is not None and not kind.compares:
        worst = _worst(figure.ratio, lower_is_better=kind.lower_is_better)
        return Standing(score=sign * worst, text=f"{side} {worst:.3f} of the original's")
    worst = _worst(figure.value, lower_is_better=kind.lower_is_better)
    return Standing(score=sign * worst, text=f"{side} {amount(name, worst)}")


def _worst(estimate: Estimate, *, lower_is_better: bool) -> float:
    bound = estimate.upper if lower_is_better else estimate.lower
    return estimate.value if bound is None else bound


def amount(name: FigureName, value: float) -> str:
    """A figure's value in a unit that people read: `0.412 ms`, `11.30 MiB`, `97.20 %`."""
    return f"{100 * value:.2f} %" if name in SHARES else quantity(FIGURES[name].unit, value)


def compared_amount(name: FigureName, relation: Relation, value: float) -> str:
    """What a requirement of a kind compares: the figure, a change of it, or a ratio to it.

    Args:
        name: The figure.
        relation: The kind.
        value: As compared: in the figure's unit, or divided by the original's.
    """
    match relation:
        case Relation.ABSOLUTE:
            return amount(name, value)
        case Relation.GAIN | Relation.LOSS if name in SHARES:
            return points(value)
        case Relation.GAIN | Relation.LOSS:
            return f"{'+' if value >= 0 else '-'}{amount(name, abs(value))}"
        case Relation.RELATIVE_GAIN | Relation.RELATIVE_LOSS:
            return f"{value:.3f} of the original's"


def points(share: float) -> str:
    """A difference of two shares, in percentage points with its sign."""
    return f"{100 * share:+.2f} points"


def bounds(name: FigureName, estimate: Estimate) -> str:
    """The bounds of a value: `0.398 ms to 0.431 ms`, `at least 96.10 %`; "" without any."""
    lower, upper = estimate.lower, estimate.upper
    if lower is None and upper is None:
        return ""
    if lower == upper == estimate.value:
        return "exact"
    if upper is None and lower is not None:
        return f"at least {amount(name, lower)}"
    if lower is None and upper is not None:
        return f"at most {amount(name, upper)}"
    return f"{amount(name, lower or 0.0)} to {amount(name, upper or 0.0)}"


def against_original(figure: Figure) -> str:
    """A figure beside the original's: `0.404 of the original's (0.385 to 0.425)`; "" if alone."""
    if figure.name is FigureName.ACCURACY and figure.difference is not None:
        difference = figure.difference
        text = f"{points(difference.value)} against the original"
        if difference.lower is None or difference.upper is None:
            return text
        return f"{text} ({points(difference.lower)} to {points(difference.upper)})"
    ratio = figure.ratio
    if ratio is None or FIGURES[figure.name].compares:
        return ""
    text = f"{ratio.value:.3f} of the original's"
    if ratio.lower is None or ratio.upper is None or ratio.lower == ratio.upper:
        return text
    return f"{text} ({ratio.lower:.3f} to {ratio.upper:.3f})"


def title(figure: Figure) -> str:
    """The name of a figure with what was done to the items and under which circumstances."""
    return name_text(figure.name, figure.under, figure.condition)


def name_text(name: FigureName, under: str, condition: str) -> str:
    """A name with what was done to the items and under which circumstances; "" for the usual."""
    text = f"{name} under {under}" if under else str(name)
    return f"{text}, {condition}" if condition else text


def duration(seconds: float) -> str:
    """A time span: `4.2 s`, `12 min 5 s`, `2 h 5 min`."""
    if round(seconds, 1) < _MINUTE_S:
        return f"{seconds:.1f} s"
    if round(seconds) < _HOUR_S:
        minutes, rest = divmod(round(seconds), int(_MINUTE_S))
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(round(seconds / _MINUTE_S), int(_MINUTE_S))
    return f"{hours} h {minutes} min"
