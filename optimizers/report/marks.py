"""The marks of a plot: one for each trial that was measured, and one for the original."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from optimizers.contract.amounts import number
from optimizers.contract.described import recipe_text
from optimizers.contract.evaluation import Estimate
from optimizers.contract.goal import FigureName
from optimizers.contract.study import Explanation, Trial, TrialState
from optimizers.report.axes import Axis
from optimizers.report.dimensions import Dimension
from optimizers.report.labels import Spot
from optimizers.search.wording import amount

Axes = tuple[Axis, Axis]


class Kind(StrEnum):
    """What a mark stands for; also its legend."""

    WINNER = "winner"
    HOLDS = "holds what is required"
    MISSES = "misses a requirement"
    HALVED = "halved"
    ABANDONED = "abandoned"
    FAILED = "failed"
    RUNNING = "running"
    ORIGINAL = "original"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One trial, or the original.

    Attributes:
        kind: How it is drawn.
        at: Where.
        label: Its number, or `original`.
        text: What it is, with its numbers.
        is_best: Whether it is on the front or won, or is the original.
        across: From where to where its bounds go, to the sides; None: they are not drawn.
        along: The same upwards.
    """

    kind: Kind
    at: Spot
    label: str
    text: str
    is_best: bool = False
    across: tuple[float, float] | None = None
    along: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A trial that was measured in both dimensions of a plot.

    Attributes:
        trial: Which.
        x: In the unit of the horizontal axis.
        y: In the unit of the upright axis.
    """

    trial: Trial
    x: Estimate
    y: Estimate


def placed_trials(trials: Sequence[Trial], x: Dimension, y: Dimension) -> tuple[Placed, ...]:
    """The trials that can be drawn."""
    return tuple(
        Placed(trial=trial, x=across, y=along)
        for trial in trials
        if (across := x.of(trial)) is not None and (along := y.of(trial)) is not None
    )


def trial_mark(
    explanation: Explanation, axes: Axes, one: Placed, best: Collection[int | None]
) -> Mark:
    """The mark of a trial; those that are `best` show their bounds."""
    is_best = one.trial.number in best
    return Mark(
        kind=_kind(one.trial, explanation.winner),
        at=(axes[0].place(one.x.value), axes[1].place(one.y.value)),
        label=str(one.trial.number),
        text=_text(one.trial, explanation.profile.goal.figures),
        is_best=is_best,
        across=_reach(axes[0], one.x) if is_best else None,
        along=_reach(axes[1], one.y) if is_best else None,
    )


def original_mark(axes: Axes, x: Dimension, y: Dimension) -> Mark | None:
    """The mark of the original; None where it has no place."""
    if x.original is None or y.original is None:
        return None
    text = ", ".join(
        f"{one.figure} {number(at)} {one.unit}".rstrip()
        for one, at in ((x, x.original), (y, y.original))
    )
    return Mark(
        kind=Kind.ORIGINAL,
        at=(axes[0].place(x.original), axes[1].place(y.original)),
        label="original",
        text=text,
        is_best=True,
    )


def _kind(trial: Trial, winner: int | None) -> Kind:
    if trial.number == winner:
        return Kind.WINNER
    match trial.state:
        case TrialState.COMPLETE:
            return Kind.HOLDS if trial.is_feasible else Kind.MISSES
        case TrialState.HALVED:
            return Kind.HALVED
        case TrialState.ABANDONED:
            return Kind.ABANDONED
        case TrialState.FAILED:
            return Kind.FAILED
        case TrialState.RUNNING:
            return Kind.RUNNING


def _text(trial: Trial, names: Sequence[FigureName]) -> str:
    figures = [figure for name in names if (figure := trial.figure(name)) is not None]
    numbers = ", ".join(f"{one.name} {amount(one.name, one.value.value)}" for one in figures)
    return f"trial {trial.number}, {recipe_text(trial.recipe)}: {numbers}"


def _reach(one: Axis, place: Estimate) -> tuple[float, float] | None:
    if place.lower is None and place.upper is None:
        return None
    low = place.value if place.lower is None else place.lower
    high = place.value if place.upper is None else place.upper
    return one.place(low), one.place(high)
