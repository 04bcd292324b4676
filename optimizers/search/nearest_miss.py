"""The trial that came closest where none holds the goal."""

from __future__ import annotations

from collections.abc import Sequence

from optimizers.contract.evaluation import Check, Gate
from optimizers.contract.goal import FIGURES, Goal
from optimizers.contract.steps import step_name
from optimizers.contract.study import Trial, TrialState
from optimizers.evaluation.limits import figure_of, measured
from optimizers.evaluation.verdict import check_better, check_requirement
from optimizers.search.objectives import objectives, search_alpha, violation


def nearest_miss(goal: Goal, trials: Sequence[Trial]) -> str:
    """Which trial came closest and what it misses, for people; "" without a measured trial.

    Args:
        goal: With the task's floors (`Assessor.goal`).
        trials: Of a search; those that were measured to the end come before all others.
    """
    known = [trial for trial in trials if trial.figures and trial.state is not TrialState.FAILED]
    if not known:
        return ""
    nearest = min(known, key=lambda trial: _rank(goal, trial))
    steps = ", ".join(step_name(step) for step in nearest.recipe.steps) or "no step"
    missed = missed_requirements(goal, nearest)
    said = "; ".join(missed) if missed else "it misses nothing that was measured"
    if nearest.refused:
        said = f"the gate refused it: {nearest.refused}"
    text = f"trial {nearest.number} ({steps}) came closest: {said}"
    if nearest.state is not TrialState.COMPLETE:
        text += f" (it was taken to level {nearest.level} of {nearest.levels})"
    return text


def missed_requirements(goal: Goal, trial: Trial) -> tuple[str, ...]:
    """A sentence with its numbers for each thing that a trial misses, as the gate would say it.

    What a trial that was not measured to the end does not know is left out.

    Args:
        goal: With the task's floors.
        trial: Any that was measured.
    """
    checks = [*requirement_checks(goal, trial), better_check(goal, trial)]
    return tuple(check.text for check in checks if check is not None and not check.passed)


def requirement_checks(goal: Goal, trial: Trial) -> list[Check]:
    """Whether a trial holds each requirement by its bounds; of one not at its end, as is known."""
    checks = []
    for requirement in goal.require:
        figure = figure_of(requirement, trial.figures)
        if figure is not None or trial.state is TrialState.COMPLETE:
            alpha = search_alpha(goal)
            checks.append(check_requirement(requirement, figure, Gate.FIDELITY, alpha))
    return checks


def better_check(goal: Goal, trial: Trial) -> Check | None:
    """Whether a trial is better than the original at the first aim; None where nobody can tell."""
    aim = measured(trial.figures, goal.optimize[0])
    if FIGURES[goal.optimize[0]].compares:
        return None
    if aim is None and trial.state is not TrialState.COMPLETE:
        return None
    return check_better(goal, aim, Gate.LATENCY)


def _rank(goal: Goal, trial: Trial) -> tuple[bool, int, float, tuple[float, ...]]:
    """Smallest is nearest: measured to the end, else the furthest; then what it misses."""
    whole = trial.state is TrialState.COMPLETE
    return (
        not whole,
        0 if whole else -trial.level,
        violation(goal, trial.figures, whole=whole),
        objectives(goal, trial.figures),
    )
