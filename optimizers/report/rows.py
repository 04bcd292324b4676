"""The report's tables: trials with their figures, and what the gate measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optimizers.contract.described import recipe_text
from optimizers.contract.evaluation import Figure
from optimizers.contract.study import Explanation, Trial, TrialState
from optimizers.search.wording import against_original, amount, bounds, title


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One figure of one trial.

    Attributes:
        value: In the figure's own unit, to sort by; None where it was not measured.
        text: For people; "" where it was not measured.
        bounds: Between which it surely is.
        against: Beside the original's.
    """

    value: float | None = None
    text: str = ""
    bounds: str = ""
    against: str = ""


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
    names = list(explanation.profile.goal.figures)
    found = {title(figure): figure for trial in explanation.trials for figure in trial.figures}
    order = [*names, *(one.name for one in found.values() if one.name not in names)]
    columns = tuple(sorted(found, key=lambda text: (order.index(found[text].name), text)))
    rows = (_row(trial, columns, explanation.winner) for trial in explanation.trials)
    return columns, tuple(rows)


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


def _row(trial: Trial, columns: Sequence[str], winner: int | None) -> TrialRow:
    measured = {title(figure): figure for figure in trial.figures}
    return TrialRow(
        trial=trial,
        recipe=recipe_text(trial.recipe),
        state=_state(trial),
        cells=tuple(
            _cell(measured[column]) if column in measured else Cell() for column in columns
        ),
        is_winner=trial.number == winner,
    )


def _state(trial: Trial) -> str:
    if trial.state is TrialState.COMPLETE:
        if trial.refused:
            return f"{trial.state}, refused by the gate"
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
