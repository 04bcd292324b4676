"""What a search has come to: the front, and the trial that goes to the final gate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from optimizers.contract.goal import Goal
from optimizers.contract.study import Trial
from optimizers.search.dominance import front
from optimizers.search.objectives import objectives


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The best of the trials so far.

    Attributes:
        front: Feasible trials that no other is better than, best first aim first.
    """

    front: tuple[Trial, ...]

    @property
    def winner(self) -> Trial | None:
        """The trial that goes to the final gate; None where none holds the goal."""
        return next(iter(self.front), None)


def outcome(goal: Goal, trials: Sequence[Trial]) -> Outcome:
    """Find the front of feasible trials by what the bounds that speak against them leave.

    The first aim must have been measured; another that was not counts as the worst.

    Args:
        goal: With the task's floors.
        trials: Of the study.
    """
    credited = [
        (vector, trial)
        for trial in trials
        if trial.is_feasible and math.isfinite((vector := objectives(goal, trial.figures))[0])
    ]
    best = front([vector for vector, _ in credited])
    ranked = sorted((credited[index] for index in best), key=lambda one: (one[0], one[1].number))
    return Outcome(front=tuple(trial for _, trial in ranked))
