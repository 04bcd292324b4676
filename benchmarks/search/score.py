"""How good what a search has found is, as a share of the best that the sweep knows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Final

from benchmarks.search.sweep import Sweep
from optimizers.contract.goal import Goal
from optimizers.contract.study import Trial, TrialState
from optimizers.search.dominance import hypervolume
from optimizers.search.objectives import objectives

REACHED: Final = 0.95
"""Share of the sweep's best that counts as having found it."""


def of_one_aim(sweep: Sweep) -> Goal:
    """The sweep's goal with its first aim alone."""
    return replace(sweep.goal, optimize=sweep.goal.optimize[:1])


def times_better(goal: Goal, trial: Trial) -> float:
    """How many times better than the original's a trial's first aim is.

    By the bound that speaks against it; 0 where there is none.
    """
    return math.exp(-objectives(goal, trial.figures)[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Yardstick:
    """What a sweep's best is worth.

    With one aim a search is worth how many times better its best trial is than the original, among
    those that hold all that is required. With several it is worth the volume that its front
    dominates, in logarithms of the ratios to the original, with the original as the corner.

    Attributes:
        goal: With floors.
        best: Of the sweep's best trial, or front; above 0.
    """

    goal: Goal
    best: float

    def share(self, trials: Sequence[Trial]) -> float:
        """What some feasible trials are worth, as a share of the sweep's best, at least 0."""
        return _worth(self.goal, trials) / self.best


def yardstick(sweep: Sweep, goal: Goal) -> Yardstick | None:
    """The sweep's best; None where no recipe holds what is required."""
    best = _worth(goal, sweep.outcome(goal).front)
    return Yardstick(goal=goal, best=best) if best > 0 else None


def best_to_median(sweep: Sweep) -> float:
    """The sweep's best first aim as a multiple of the median recipe's.

    The median is of all recipes that could be measured, whether they hold what is required or not.
    NaN where there is no best.
    """
    goal = of_one_aim(sweep)
    measured = [
        times_better(goal, trial)
        for trial in sweep.trials(goal)
        if trial.state is TrialState.COMPLETE
    ]
    winner = sweep.outcome(goal).winner
    return math.nan if winner is None else times_better(goal, winner) / median(measured)


def _worth(goal: Goal, trials: Sequence[Trial]) -> float:
    if not trials:
        return 0.0
    if len(goal.optimize) == 1:
        return max(times_better(goal, trial) for trial in trials)
    vectors = [objectives(goal, trial.figures) for trial in trials]
    return hypervolume(vectors, [0.0] * len(goal.optimize))
