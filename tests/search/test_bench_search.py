"""Replaying searches over a sweep, where every figure is known by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

import pytest

from benchmarks.search.grounds import GROUNDS, quick
from benchmarks.search.page import Section, render
from benchmarks.search.races import Race, races
from benchmarks.search.replay import (
    ALONE,
    CONTESTANTS,
    DEFAULT,
    GENETIC,
    GRID,
    RANDOM,
    Contestant,
    everything,
    looks_ahead,
    quarter,
    replay,
)
from benchmarks.search.score import (
    REACHED,
    best_to_median,
    of_one_aim,
    times_better,
    yardstick,
)
from benchmarks.search.sweep import Sweep, append_piece, begin_sweep, read_sweep
from optimizers.contract.errors import InvalidData
from optimizers.contract.goal import Goal
from optimizers.contract.recipe import Recipe
from optimizers.contract.search import Sampler
from optimizers.search.evaluator import Level
from optimizers.search.levels import at_level
from optimizers.search.space import space_of
from tests.support.spaces import evidence
from tests.support.sweeps import BUILDING_S, LOOKING_S, MEASURING_S, speed, sweep_of, truth

STRUCTURE = Level(index=1, training_share=0.0)


@pytest.fixture(scope="module")
def sweep() -> Sweep:
    return sweep_of()


def one_best(recipe: Recipe) -> float:
    """All alike but one: nothing to learn from, nothing to be abandoned for."""
    names = [type(step).__name__ for step in recipe.steps]
    return 0.5 if names == ["Merge", "PruneChannels"] and recipe.steps[1].ratio == 0.25 else 0.9  # type: ignore[union-attr]
