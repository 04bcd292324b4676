"""The trial that came closest where none holds the goal."""

from __future__ import annotations

from collections.abc import Sequence

from optimizers.contract.goal import Goal
from optimizers.contract.study import Trial


def nearest_miss(goal: Goal, trials: Sequence[Trial]) -> str:
    """Which trial came closest and what it misses, for people; "" without a measured trial.

    Args:
        goal: With the task's floors (`Assessor.goal`).
        trials: Of a search; those that were measured to the end come before all others.
    """
    raise NotImplementedError
