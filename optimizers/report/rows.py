"""The report's tables: trials with their figures, and what the gate measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from optimizers.contract.described import recipe_text
from optimizers.contract.evaluation import Figure
from optimizers.contract.goal import FigureName
from optimizers.contract.study import Explanation, Trial, TrialState
from optimizers.search.wording import against_original, amount, bounds, name_text, title

_Column = tuple[FigureName, str, int]
"""Which figure, what was done to the items, and which of several of a trial."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One figure of one trial.

    Attributes:
        value: In the figure's own unit, to sort by; None where it was not measured.
        text: For people; "" where it was not measured.
        bounds: Between which it surely is.
        against: Beside the original's.
        condition: Under which circumstances, where the column does not say it.
    """

    value: float | None = None
    text: str = ""
    bounds: str = ""
    against: str = ""
    condition: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRow:
    """One line of the table of trials.

    Attributes:
        trial: Which.
        recipe: With its parameters.
        state: Where it stands, and how far it came.
        cells: One for each column of figures.
        is_winner: Whether it won.
    """

    trial: Trial
    recipe: str
    state: str
    cells: tuple[Cell, ...]
    is_winner: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRow:
    """One figure of the final gate.

    Attributes:
        title: Which, and under which circumstances.
        cell: The variant's.
        original: The original's; "" for a figure that compares already.
        counted: What it was computed from.
        method: How its bounds were.
    """

    title: str
    cell: Cell
    original: str
    counted: str
    method: str


def trial_table(explanation: Explanation) -> tuple[tuple[str, ...], tuple[TrialRow, ...]]:
    """The titles of the columns of figures, the goal's first, and a row for every trial."""
    known = [_by_column(trial) for trial in explanation.trials]
    found: dict[_Column, set[str]] = {}
    for figures in known:
        for column, figure in figures.items():
            found.setdefault(column, set()).add(figure.condition)
    order = list(dict.fromkeys([*explanation.profile.goal.figures, *(one[0] for one in found)]))
    columns = sorted(found, key=lambda column: (order.index(column[0]), *column[1:]))
    titles = {
        column: _title(column, conditions.pop() if len(conditions) == 1 else "")
        for column, conditions in found.items()
    }
    rows = (
        _row(trial, [(titles[column], figures.get(column)) for column in columns], explanation)
        for trial, figures in zip(explanation.trials, known, strict=True)
    )
    return tuple(titles[column] for column in columns), tuple(rows)


def gate_table(figures: Sequence[Figure]) -> tuple[GateRow, ...]:
    """What the final gate measured, in its order."""
    return tuple(
        GateRow(
            title=title(one),
            cell=_cell(one),
            original="" if one.original is None else amount(one.name, one.original.value),
            counted=one.counted,
            method=one.method,
        )
        for one in figures
    )


def _by_column(trial: Trial) -> dict[_Column, Figure]:
    """A trial's figures; of several of one name, the first have a column, the second have one."""
    found: dict[_Column, Figure] = {}
    for figure in trial.figures:
        place = sum(one[:2] == (figure.name, figure.under) for one in found)
        found[figure.name, figure.under, place] = figure
    return found


def _title(column: _Column, condition: str) -> str:
    name, under, _ = column
    return name_text(name, under, condition)


def _row(
    trial: Trial, figures: Sequence[tuple[str, Figure | None]], explanation: Explanation
) -> TrialRow:
    """One line.

    Args:
        trial: Which.
        figures: The title of each column, and what the trial has in it.
        explanation: Knows the winner.
    """
    return TrialRow(
        trial=trial,
        recipe=recipe_text(trial.recipe),
        state=_state(trial),
        cells=tuple(
            Cell()
            if figure is None
            else replace(
                _cell(figure), condition="" if title(figure) == column else figure.condition
            )
            for column, figure in figures
        ),
        is_winner=trial.number == explanation.winner,
    )


def _state(trial: Trial) -> str:
    if trial.state is TrialState.COMPLETE:
        if trial.violation:
            return f"{trial.state}, {100 * trial.violation:.1f} % short of what is required"
        return f"{trial.state}, holds what is required"
    return f"{trial.state}, level {trial.level} of {trial.levels}"


def _cell(figure: Figure) -> Cell:
    return Cell(
        value=figure.value.value,
        text=amount(figure.name, figure.value.value),
        bounds=bounds(figure.name, figure.value),
        against=against_original(figure),
    )
