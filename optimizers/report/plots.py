"""What is drawn: trials in two figures, with the front, the limits and the original.

Both renderers, the page's and the picture's, draw exactly this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Final

from optimizers.contract.evaluation import Estimate
from optimizers.contract.goal import FIGURES, FigureName, Requirement
from optimizers.contract.study import Explanation, Trial, TrialState
from optimizers.report.axes import Axis, axis
from optimizers.report.dimensions import Dimension, dimension
from optimizers.report.labels import Canvas, Label, Spot, place_labels
from optimizers.report.marks import Axes, Kind, Mark, original_mark, placed_trials, trial_mark

_FIDELITY: Final = (
    *(FigureName.ACCURACY, FigureName.AGREEMENT, FigureName.COSINE, FigureName.SQNR),
)
_LATER: Final = (
    *(Kind.FAILED, Kind.RUNNING, Kind.ABANDONED, Kind.HALVED, Kind.MISSES, Kind.HOLDS),
    *(Kind.WINNER, Kind.ORIGINAL),
)
"""What is drawn over what, and labelled sooner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A line across the area: a requirement's, or the original's.

    Attributes:
        text: The requirement as written.
        at: Where it crosses its axis, in [0, 1].
        is_upright: Whether it limits the horizontal axis.
    """

    text: str
    at: float
    is_upright: bool

    @property
    def line(self) -> tuple[Spot, Spot]:
        """Its two ends."""
        if self.is_upright:
            return (self.at, 0.0), (self.at, 1.0)
        return (0.0, self.at), (1.0, self.at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """Trials in two figures; all places are shares of the area, from its lower left corner.

    Attributes:
        title: What against what.
        x: The horizontal axis.
        y: The upright axis.
        marks: Trials in the order of drawing: those that ended early first, the best last; then
            the original.
        front: Corners of the line that no trial is beyond.
        limits: Lines of the requirements.
        notes: What is not to be seen, in sentences.
    """

    title: str
    x: Axis
    y: Axis
    marks: tuple[Mark, ...]
    front: tuple[Spot, ...]
    limits: tuple[Limit, ...]
    notes: tuple[str, ...]

    def labels(self, canvas: Canvas) -> tuple[Label, ...]:
        """Numbers beside as many marks as have room for them, the most important first."""
        return place_labels(
            [(mark.label, mark.at) for mark in reversed(self.marks)],
            [mark.at for mark in self.marks],
            canvas,
            [self.front, *(limit.line for limit in self.limits)],
        )

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What kinds of marks there are."""
        found = {mark.kind for mark in self.marks}
        return tuple(kind for kind in Kind if kind in found)


def plots(explanation: Explanation) -> tuple[Plot, ...]:
    """What there is to draw, the most telling first.

    One plot for every pair of aims, then the first aim against the fidelity that is hardest to
    keep; where there is neither, the first aim against the trials' numbers.
    """
    aims, trials = explanation.profile.goal.optimize, explanation.trials
    drawn = [
        _plot(explanation, dimension(one, trials), dimension(other, trials), explanation.front)
        for one, other in combinations(dict.fromkeys(aims), 2)
    ]
    aim, fidelity = dimension(aims[0], trials), _tightest(explanation)
    if fidelity is not None and fidelity not in aims:
        drawn.append(_plot(explanation, aim, dimension(fidelity, trials)))
    return tuple(drawn) or (_plot(explanation, Dimension(figure=None), aim),)


def _tightest(explanation: Explanation) -> FigureName | None:
    """The required fidelity that most trials fall short of; else the first that was measured."""
    trials, require = explanation.trials, explanation.profile.goal.require
    wanted = [one for one in require if one.figure in _FIDELITY and one.under is None]
    if wanted:
        return max(wanted, key=lambda one: _short_of(one, trials)).figure
    measured = (name for name in _FIDELITY if any(trial.figure(name) for trial in trials))
    return next(measured, None)


def _short_of(requirement: Requirement, trials: Sequence[Trial]) -> int:
    found = dimension(requirement.figure, trials)
    limit = found.limit(requirement)
    places = [place for trial in trials if (place := found.of(trial)) is not None]
    return 0 if limit is None else sum(_lower_bound(place) < limit for place in places)


def _lower_bound(place: Estimate) -> float:
    return place.value if place.lower is None else place.lower


def _plot(
    explanation: Explanation, x: Dimension, y: Dimension, front: Sequence[int] | None = None
) -> Plot:
    """Trials in two dimensions; without a front, that of all complete trials in these two."""
    trials, require = explanation.trials, explanation.profile.goal.require
    placed = placed_trials(trials, x, y)
    best = {*(explanation.front if front is None else front), explanation.winner}
    of_best = [one for one in placed if one.trial.number in best]
    axes = (
        _axis(x, require, [one.x.value for one in placed], [one.x.value for one in of_best]),
        _axis(y, require, [one.y.value for one in placed], [one.y.value for one in of_best]),
    )
    marks = [trial_mark(explanation, axes, one, best) for one in placed]
    marks.sort(key=lambda mark: (mark.is_best, _LATER.index(mark.kind)))
    original = original_mark(axes, x, y)
    members = [
        (one.x.value, one.y.value)
        for one in placed
        if (one.trial.state is TrialState.COMPLETE if front is None else one.trial.number in front)
    ]
    beyond = sum(not (axes[0].holds(one.x.value) and axes[1].holds(one.y.value)) for one in placed)
    limits, far = _limits(require, (x, y), axes)
    return Plot(
        title=f"{y.figure} against {x.figure or 'the order of trials'}",
        x=axes[0],
        y=axes[1],
        marks=(*marks, *([original] if original else [])),
        front=_staircase(members, (x, y), axes) if x.figure else (),
        limits=limits,
        notes=tuple(_notes(len(trials) - len(placed), beyond, far)),
    )


def _axis(
    one: Dimension, require: Sequence[Requirement], values: Sequence[float], best: Sequence[float]
) -> Axis:
    return axis(
        one.name,
        values,
        shown=[*best, *([] if one.original is None else [one.original])],
        limits=[found for each in require if (found := one.limit(each)) is not None],
        largest=one.largest,
    )


def _staircase(
    members: Sequence[Spot], dimensions: tuple[Dimension, Dimension], axes: Axes
) -> tuple[Spot, ...]:
    """The line between what members reach and what none does, through those that none is beyond."""
    signs = [_sign(one) for one in dimensions]
    goods = sorted({(signs[0] * x, signs[1] * y) for x, y in members})
    kept: list[Spot] = []
    for good in goods:  # worse and worse in x, so each must be better in y than all before
        if not kept or good[1] < kept[-1][1]:
            kept.append(good)
    corners = kept[:1]
    for before, after in pairwise(kept):
        corners += [(after[0], before[1]), after]
    return tuple((axes[0].place(signs[0] * x), axes[1].place(signs[1] * y)) for x, y in corners)


def _sign(one: Dimension) -> int:
    return 1 if one.figure is None or FIGURES[one.figure].lower_is_better else -1


def _limits(
    require: Sequence[Requirement], dimensions: tuple[Dimension, Dimension], axes: Axes
) -> tuple[tuple[Limit, ...], list[str]]:
    """The lines that are on an axis, and the texts of those that are not."""
    drawn, far = [], []
    for one, along, is_upright in zip(dimensions, axes, (True, False), strict=True):
        places = [(requirement.text, one.limit(requirement)) for requirement in require]
        if dimensions[0].figure is None:
            places.append(("the original", one.original))
        for text, at in places:
            if at is not None and along.holds(at):
                drawn.append(Limit(text=text, at=along.place(at), is_upright=is_upright))
            elif at is not None:
                far.append(text)
    return tuple(drawn), far


def _notes(absent: int, beyond: int, far: Sequence[str]) -> list[str]:
    notes = []
    if absent:
        notes.append(
            f"Trials that are not drawn, since they ended before both were measured: {absent}."
        )
    if beyond:
        notes.append(f"Trials that are drawn at the edge, since they lie further out: {beyond}.")
    return [*notes, *(f"The limit of '{text}' lies outside." for text in far)]
