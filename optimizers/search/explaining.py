"""Why a trial lost, and why the winner won: one sentence each, with its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from optimizers.contract.described import recipe_text
from optimizers.contract.goal import Goal
from optimizers.contract.study import Trial, TrialState
from optimizers.search.nearest_miss import not_better, unmet_requirements
from optimizers.search.wording import Standing, amount, standing

_CUT: Final = {
    TrialState.FAILED: "failed",
    TrialState.ABANDONED: "abandoned",
    TrialState.HALVED: "halved",
}


def why_lost(trial: Trial, winner: Trial | None, goal: Goal, front: Sequence[Trial]) -> str:
    """Why a trial is not the winner.

    What its reason says already of a failed step, a bound or a rung is kept; calling this again
    with the answer as the trial's reason gives the same answer.

    Args:
        trial: The one in question.
        winner: The best feasible trial so far; None if there is none.
        goal: What was wanted.
        front: Feasible trials that no other is better than.

    Returns:
        A sentence without a full stop; "" for the winner, for a trial that still runs, and for
        one that nothing speaks against yet.
    """
    match trial.state:
        case TrialState.RUNNING:
            return ""
        case TrialState.FAILED:
            return _cut(trial, "no reason was given")
        case TrialState.ABANDONED:
            missed = _missed(trial, goal)
            return _cut(trial, missed or _beaten(trial, winner, goal, front) or "it cannot win")
        case TrialState.HALVED:
            return _cut(trial, _not_among_the_best(trial, winner, goal))
        case TrialState.COMPLETE:
            if trial.refused:
                return f"refused by the gate: {trial.refused}"
            return _missed(trial, goal) if trial.violation else _beaten(trial, winner, goal, front)


def winner_text(winner: Trial, goal: Goal, trials: Sequence[Trial]) -> str:
    """Why a trial won: how much better than the original, what it holds, and who came next.

    Args:
        winner: The best feasible trial.
        goal: What was wanted.
        trials: All of the search.
    """
    text = f"trial {winner.number}, {recipe_text(winner.recipe)}: {_aims(winner, goal)}"
    held = [f"'{one.text}'" for one in goal.require]
    if held:
        text += f"; it holds {', '.join(held)}"
    aim = goal.optimize[0]
    others = [
        (found.score, trial.number, found.text)
        for trial in trials
        if trial.is_feasible and trial.number != winner.number
        if (found := _stands(trial, goal)[0]) is not None
    ]
    if others:
        _, number, next_best = min(others)
        text += f"; next in {aim} is trial {number} with {next_best}"
    return text


def _cut(trial: Trial, otherwise: str) -> str:
    prefix = f"{_CUT[trial.state]} at level {trial.level} of {trial.levels}: "
    return f"{prefix}{trial.reason.removeprefix(prefix) or otherwise}"


def _missed(trial: Trial, goal: Goal) -> str:
    """What a trial does not surely meet, being better than the original included.

    Of a trial that was not measured to its end only what surely fails counts.
    """
    whole = trial.state is TrialState.COMPLETE
    texts = [
        check.text if check.passed is None else f"misses {check.text}"
        for check in unmet_requirements(goal, trial)
        if whole or check.passed is False
    ]
    texts += [check.text for check in not_better(goal, trial) if whole or check.passed is False]
    return "; ".join(texts)


def _beaten(trial: Trial, winner: Trial | None, goal: Goal, front: Sequence[Trial]) -> str:
    """Which trial of the front is better, and in what."""
    if winner is None or winner.number == trial.number:
        return ""
    own = _stands(trial, goal)
    rivals = [winner, *(one for one in front if one.number not in (winner.number, trial.number))]
    for rival in rivals:
        if _dominates(_stands(rival, goal), own):
            return f"trial {rival.number} is better: {_compared(rival, trial, goal)}"
    if any(one.number == trial.number for one in front) and len(goal.optimize) > 1:
        return (
            f"on the front, but {goal.optimize[0]} decides and trial {winner.number} is better "
            f"there: {_compared(winner, trial, goal)}"
        )
    return f"no better than trial {winner.number}: {_compared(winner, trial, goal)}"


def _not_among_the_best(trial: Trial, winner: Trial | None, goal: Goal) -> str:
    text = f"not among the best of its rung: {_aims(trial, goal)}"
    missed = _missed(trial, goal)
    if missed:
        text += f"; {missed}"
    if winner is not None:
        text += f"; the winner is trial {winner.number}: {_aims(winner, goal)}"
    return text


def _stands(trial: Trial, goal: Goal) -> list[Standing | None]:
    figures = [trial.figure(name) for name in goal.optimize]
    return [None if one is None else standing(one) for one in figures]


def _dominates(one: Sequence[Standing | None], other: Sequence[Standing | None]) -> bool:
    """Whether `one` is nowhere worse and somewhere better; what was not measured is no reason."""
    known = [
        (mine.score, theirs.score)
        for mine, theirs in zip(one, other, strict=True)
        if mine is not None and theirs is not None
    ]
    return (
        bool(known)
        and all(mine <= theirs for mine, theirs in known)
        and any(mine < theirs for mine, theirs in known)
    )


def _compared(winner: Trial, loser: Trial, goal: Goal) -> str:
    texts = []
    for name, mine, theirs in zip(
        goal.optimize, _stands(winner, goal), _stands(loser, goal), strict=True
    ):
        if mine is None or theirs is None:
            texts.append(f"{name} was not measured of both")
        else:
            texts.append(f"{name} {mine.text}, here {theirs.text}")
    return "; ".join(texts)


def _aims(trial: Trial, goal: Goal) -> str:
    texts = []
    for name in goal.optimize:
        figure = trial.figure(name)
        if figure is None:
            texts.append(f"{name} was not measured")
            continue
        original = figure.original
        against = "" if original is None else f" against {amount(name, original.value)}"
        texts.append(f"{name} {amount(name, figure.value.value)}{against}, {standing(figure).text}")
    return "; ".join(texts)
