"""The trial that came closest where none holds the goal."""

from __future__ import annotations

from collections.abc import Sequence

from optimizers.contract.evaluation import Check, Gate
from optimizers.contract.goal import FIGURES, FigureName, Goal
from optimizers.contract.steps import step_name
from optimizers.contract.study import Trial, TrialState
from optimizers.evaluation.limits import figure_of, measured
from optimizers.evaluation.verdict import NOT_MEASURED, check_better, check_requirement
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
    checks = (*unmet_requirements(goal, trial), *not_better(goal, trial))
    return tuple(check.text for check in checks)


def unmet_requirements(goal: Goal, trial: Trial) -> tuple[Check, ...]:
    """What is required and not surely held, as far as the trial knows it: see above."""
    alpha = search_alpha(goal)
    whole = trial.state is TrialState.COMPLETE
    checks = [
        check_requirement(
            requirement, figure, Gate.FIDELITY, alpha, _missing(trial, requirement.figure)
        )
        for requirement in goal.require
        if (figure := figure_of(requirement, trial.figures)) is not None or whole
    ]
    return tuple(check for check in checks if not check.passed)


def not_better(goal: Goal, trial: Trial) -> tuple[Check, ...]:
    """Why the trial is not surely better than the original at the first aim; () where it is."""
    name = goal.optimize[0]
    aim = measured(trial.figures, name)
    if FIGURES[name].compares or (aim is None and trial.state is not TrialState.COMPLETE):
        return ()
    check = check_better(goal, aim, Gate.LATENCY, _missing(trial, name))
    return () if check.passed else (check,)


def _missing(trial: Trial, name: FigureName) -> str:
    return trial.missing.get(name, NOT_MEASURED)


def _rank(goal: Goal, trial: Trial) -> tuple[bool, int, float, tuple[float, ...]]:
    """Smallest is nearest: measured to the end, else the furthest; then what it misses."""
    whole = trial.state is TrialState.COMPLETE
    return (
        not whole,
        0 if whole else -trial.level,
        violation(goal, trial.figures, whole=whole),
        objectives(goal, trial.figures),
    )
