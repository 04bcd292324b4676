"""Recipes that are composed of parts which were seen to gain something."""

from __future__ import annotations

from dataclasses import replace
from statistics import mean

import numpy as np
import pytest

from optimizers.contract.goal import FigureName, Goal, parse_requirement
from optimizers.contract.pruning import PruneChannels
from optimizers.contract.study import Trial, TrialState
from optimizers.search.composing import Composer
from tests.support.sweeps import sweep_of

ONE_AIM = Goal(optimize=(FigureName.LATENCY_P50,), require=(parse_requirement("agreement >= 0.9"),))
SWEEP = sweep_of()


def best() -> Trial:
    winner = SWEEP.outcome(ONE_AIM).winner
    assert winner is not None
    return winner


def searched(seed: int, *, composes: bool) -> int:
    """How many trials it takes until the best of the sweep is among them."""
    random = np.random.default_rng(seed)
    all_trials = list(SWEEP.trials(ONE_AIM))
    composer = Composer(ONE_AIM, SWEEP.space, seed=seed)
    had: list[Trial] = []
    while best().recipe not in {one.recipe for one in had}:
        left = [one for one in all_trials if one not in had]
        composed = composer.propose(had) if composes else None
        chosen = left[int(random.integers(len(left)))] if composed is None else None
        had.append(
            chosen or next(one for one in left if composed and one.recipe == composed.recipe)
        )
    return len(had)


def test_gains_that_multiply_are_found_in_fewer_trials_than_by_chance() -> None:
    seeds = range(12)
    composed = mean(searched(seed, composes=True) for seed in seeds)
    by_chance = mean(searched(seed, composes=False) for seed in seeds)
    assert composed < 0.7 * by_chance, (composed, by_chance)


def test_nothing_is_composed_before_anything_is_known() -> None:
    composer = Composer(ONE_AIM, SWEEP.space, seed=0)
    known = SWEEP.trials(ONE_AIM)
    assert composer.propose(()) is None
    assert composer.propose(known[:2]) is None
    assert composer.propose([replace(one, figures=()) for one in known[:9]]) is None


def test_the_same_trials_propose_the_same_and_nothing_that_was_had() -> None:
    known = SWEEP.trials(ONE_AIM)[::3]
    first, again = (Composer(ONE_AIM, SWEEP.space, seed=3).propose(known) for _ in range(2))
    assert first is not None
    assert first == again
    assert first.recipe not in {one.recipe for one in known}
    assert f"{len(known)} trials" in first.reason


def test_where_all_was_tried_nothing_is_left_to_compose() -> None:
    assert Composer(ONE_AIM, SWEEP.space, seed=0).propose(SWEEP.trials(ONE_AIM)) is None


def test_what_is_likely_to_miss_a_requirement_is_not_proposed() -> None:
    """All that prunes without distilling misses what is required; nothing else does."""
    known = [one for one in SWEEP.trials(ONE_AIM) if one.number % 2]
    for seed in range(8):
        composed = Composer(ONE_AIM, SWEEP.space, seed=seed).propose(known)
        if composed is not None:
            names = {type(step).__name__ for step in composed.recipe.steps}
            assert "PruneChannels" not in names or "Distill" in names, composed


@pytest.mark.parametrize("state", [TrialState.RUNNING, TrialState.ABANDONED])
def test_of_several_aims_each_gets_its_turn(state: TrialState) -> None:
    known = [
        replace(one, state=state)
        for one in SWEEP.trials(SWEEP.goal)
        if all(not isinstance(step, PruneChannels) for step in one.recipe.steps)
    ]
    proposed = {
        found.recipe
        for seed in range(8)
        if (found := Composer(SWEEP.goal, SWEEP.space, seed=seed).propose(known)) is not None
    }
    assert proposed
