"""What a trial is judged by: aims to be minimised, what it misses, and whether it can still win.

Bounds decide everywhere, never a mean. What a trial is credited with is the bound that speaks
against it; what it is abandoned for is the bound that speaks for it.
"""

from __future__ import annotations

from collections.abc import Sequence

from optimizers.contract.evaluation import Figure
from optimizers.contract.goal import Goal, Requirement
from optimizers.contract.study import Trial


def search_alpha(goal: Goal) -> float:
    """Error probability of each bound of one trial: (1 - confidence) / (1 + requirements)."""
    raise NotImplementedError


def objectives(goal: Goal, figures: Sequence[Figure]) -> tuple[float, ...]:
    """One number for each figure of `goal.optimize`, in that order, each to be minimised.

    Infinite where a figure was not measured, or has no bound.
    """
    raise NotImplementedError


def violation(goal: Goal, figures: Sequence[Figure], *, whole: bool = True) -> float:
    """By how much the goal is missed, summed over requirements; 0: it holds by every bound.

    Being better than the original at the first aim is one of them, as it is at the gate.

    Args:
        goal: With the task's floors (`Assessor.goal`).
        figures: All that was measured of a trial so far.
        whole: Whether what was not measured counts as missed; False: as held, for a trial that
            was not taken to its end.
    """
    raise NotImplementedError


def meets(requirements: Sequence[Requirement], figures: Sequence[Figure]) -> bool:
    """Whether all of them hold by the bounds that speak against the variant; False for none."""
    raise NotImplementedError


def cannot_win(goal: Goal, figures: Sequence[Figure], front: Sequence[Trial]) -> str:
    """Why a trial cannot become the winner or a member of the front, whatever is still measured.

    Only what training does not change is gone by: sizes, times, memory. "" where it may win.

    Args:
        goal: With the task's floors.
        figures: All that was measured of it so far.
        front: Trials of the front; only feasible ones count.
    """
    raise NotImplementedError
