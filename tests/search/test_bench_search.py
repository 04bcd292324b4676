"""Replaying searches over a sweep whose figures are known by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from statistics import mean

import pytest

from benchmarks.search.grounds import GROUNDS, quick
from benchmarks.search.page import Section, render
from benchmarks.search.races import races
from benchmarks.search.replay import (
    CONTESTANTS,
    DEFAULT,
    GRID,
    RANDOM,
    Contestant,
    everything,
    looks_ahead,
    quarter,
    replay,
)
from benchmarks.search.score import REACHED, best_to_median, of_one_aim, yardstick
from benchmarks.search.sweep import Piece, Sweep, append_piece, begin_sweep, read_sweep
from optimizers.contract.declaration import Choice
from optimizers.contract.errors import InvalidData
from optimizers.contract.goal import FigureName, Goal
from optimizers.contract.pruning import PruneChannels
from optimizers.contract.recipe import Recipe
from optimizers.contract.search import Sampler
from optimizers.contract.steps import step_name
from optimizers.planner import propose
from optimizers.search.evaluator import Level
from optimizers.search.records import recipe_key
from optimizers.search.space import space_of
from optimizers.search.study import Limits
from tests.support.replays import exact
from tests.support.spaces import evidence
from tests.support.sweeps import BUILDING_S, LOOKING_S, MEASURING_S, sweep_of

SWEEPS = Path(__file__).parents[2] / "benchmarks/search/sweeps"

STRUCTURE = Level(index=1, training_share=0.0)
UNTRAINED = ("prune_channels", "static_int8")
RATIOS = tuple(0.05 * number for number in range(1, 13))


def always(recipe: Recipe) -> float:
    """Answers that nothing is wrong with."""
    return 0.95


def ratio(recipe: Recipe) -> float:
    return sum(step.ratio for step in recipe.steps if isinstance(step, PruneChannels))


@pytest.fixture(scope="module")
def sweep() -> Sweep:
    """31 recipes, half of them with training."""
    return sweep_of()


@pytest.fixture(scope="module")
def small() -> Sweep:
    """7 recipes without training: three ratios, with int8 or without, and int8 alone."""
    return sweep_of(true=always, steps=UNTRAINED)


def test_what_recipes_begin_with_is_paid_for_once_and_by_whoever_needs_it(small: Sweep) -> None:
    each = LOOKING_S + MEASURING_S
    assert small.seconds == 7 * 2 * each + 7 * BUILDING_S
    last = small.recipes[-1]
    assert len(last.steps) == 2
    there: set[str] = set()
    assert small.charge(last, STRUCTURE, there) == each + 2 * BUILDING_S
    assert small.charge(last, STRUCTURE, there) == each
    shorter = replace(last, steps=last.steps[:1])
    assert small.charge(shorter, STRUCTURE, there) == each


def test_a_sweep_does_not_pay_for_levels_between_structure_and_the_end() -> None:
    sweep = sweep_of(steps=("distill",))
    assert len(sweep.pieces) == 4 + 1
    # Nothing is built for the structure of what only trains.
    assert sweep.seconds == MEASURING_S + LOOKING_S + BUILDING_S + MEASURING_S


def test_a_recipe_is_worth_what_it_showed_twice(small: Sweep) -> None:
    recipe = small.recipes[0]
    key = recipe_key(recipe), STRUCTURE

    def measured(piece: Piece, ratio: float) -> Piece:
        return replace(piece, figures=(exact(FigureName.LATENCY_P50, ratio, 1.0),))

    others = [one for one in small.pieces if (recipe_key(one.recipe), one.level) != key]
    lucky, unlucky = (measured(small.found[key], ratio) for ratio in (0.1, 0.9))
    for passes in permutations((lucky, unlucky)):
        assert replace(small, pieces=(*others, *passes)).found[key] == unlucky
    assert not replace(small, pieces=(*others, lucky)).is_complete
    assert replace(small, pieces=(*others, lucky, unlucky)).is_complete


def test_the_best_and_the_median_are_those_of_the_grid(small: Sweep) -> None:
    stick = yardstick(small, of_one_aim(small))
    assert stick is not None
    # By hand: 0.98 (1 - 0.5) 0.5 of the original's time at best; of 0.75, 0.625, 0.5, the same
    # halved, and 0.5, the median is 0.5.
    assert stick.best == pytest.approx(1 / (0.98 * 0.25))
    assert best_to_median(small) == pytest.approx(2.0)
    assert stick.share(()) == 0.0
    ranked = sorted(small.trials(stick.goal), key=lambda trial: stick.share([trial]))
    assert stick.share(ranked[-1:]) == 1.0
    assert stick.share(ranked[-2:-1]) == pytest.approx(0.25 / 0.3125)


def test_a_front_is_worth_the_volume_that_it_dominates(small: Sweep) -> None:
    stick = yardstick(small, small.goal)
    assert stick is not None
    # Size is the square of the latency, so that one recipe is best in both.
    latency = -math.log(0.98 * 0.25)
    assert stick.best == pytest.approx(2 * latency**2)


def test_without_a_recipe_that_holds_what_is_required_there_is_no_best() -> None:
    hopeless = sweep_of(true=lambda recipe: 0.1, steps=UNTRAINED)
    assert yardstick(hopeless, hopeless.goal) is None
    section = Section(sweep=hopeless, one=None, two=None, live=None, no_live="")
    assert section.part().failures == ["toy: no recipe holds what is required"]


@pytest.mark.parametrize("contestant", CONTESTANTS, ids=lambda one: one.name)
def test_the_same_seed_replays_the_same(sweep: Sweep, contestant: Contestant) -> None:
    goal = of_one_aim(sweep)
    one, same, other = (
        replay(sweep, goal, contestant, seed=seed, limits=quarter(sweep)) for seed in (1, 1, 2)
    )
    assert [(at.trials, at.seconds) for at in one.moments] == [
        (at.trials, at.seconds) for at in same.moments
    ]
    assert one.asked == same.asked
    assert (one.asked != other.asked) is contestant.by_chance


def test_a_replay_stays_within_a_quarter_of_trials_and_time(sweep: Sweep) -> None:
    limits = quarter(sweep)
    assert limits.trials == len(sweep.recipes) // 4 == 7
    assert limits.seconds == pytest.approx(sweep.seconds / 4)
    found = replay(sweep, of_one_aim(sweep), RANDOM, seed=0, limits=limits)
    assert len({recipe for recipe, _ in found.asked}) <= limits.trials
    assert all(moment.seconds <= limits.seconds for moment in found.moments)
    assert "used up" in found.ended


def test_the_clock_goes_on_by_what_the_work_took(small: Sweep) -> None:
    goal = of_one_aim(small)
    step = 2 * (LOOKING_S + MEASURING_S) + BUILDING_S
    whole = replay(small, goal, GRID, seed=0, limits=everything(small))
    assert len(whole.asked[0][0].steps) == 1
    assert whole.moments[0].seconds == step
    short = replay(small, goal, GRID, seed=0, limits=Limits(trials=7, seconds=step + 1))
    assert short.asked == whole.asked[: len(short.asked)]
    assert len(short.asked) == 3
    assert "minutes were used up" in short.ended


def test_chance_needs_half_of_the_trials_where_there_is_nothing_to_learn() -> None:
    flat = sweep_of(
        lambda recipe: 0.5 if ratio(recipe) == RATIOS[4] else 0.9,
        always,
        steps=("prune_channels",),
        values={"prune_channels.ratio": Choice(RATIOS)},
    )
    stick = yardstick(flat, of_one_aim(flat))
    assert stick is not None
    seeds = 40
    needed = [
        replay(
            flat,
            stick.goal,
            RANDOM,
            seed=seed,
            limits=everything(flat),
            enough=lambda trials: stick.share(trials) >= REACHED,
        )
        .moments[-1]
        .trials
        for seed in range(seeds)
    ]
    # Uniform over 1 to 12: mean 6.5, deviation sqrt((12^2 - 1) / 12) = 3.45.
    assert mean(needed) == pytest.approx(6.5, abs=3 * 3.45 / math.sqrt(seeds))


@pytest.mark.parametrize("contestant", CONTESTANTS, ids=lambda one: one.name)
def test_no_contestant_goes_by_what_it_was_not_told(sweep: Sweep, contestant: Contestant) -> None:
    assert not looks_ahead(sweep, of_one_aim(sweep), contestant, seed=0)


def test_one_that_looks_into_the_sweep_is_found_out(sweep: Sweep) -> None:
    def the_best(sweep: Sweep, goal: Goal) -> Sequence[Recipe]:
        return [trial.recipe for trial in sweep.outcome(goal).front]

    cheat = Contestant(name="cheat", sampler=Sampler.RANDOM, first=the_best)
    assert looks_ahead(sweep, of_one_aim(sweep), cheat, seed=0)
    stick = yardstick(sweep, of_one_aim(sweep))
    assert stick is not None
    found = races(sweep, stick, seeds=1, contestants=[cheat])
    assert found.unfair == [cheat]
    assert found.race(cheat).trials == (1 / 31,)


def test_what_is_never_found_counts_as_never(small: Sweep) -> None:
    stick = yardstick(small, of_one_aim(small))
    assert stick is not None
    beyond = replace(stick, best=2 * stick.best)
    race = races(small, beyond, seeds=2, contestants=[RANDOM]).race(RANDOM)
    assert race.trials == race.seconds == (math.inf, math.inf)
    assert race.never == 2
    assert max(race.shares) <= 0.5


def test_a_sweep_is_read_back_and_gone_on_with(small: Sweep, tmp_path: Path) -> None:
    file = tmp_path / "toy.jsonl"
    assert read_sweep(file) is None
    begin_sweep(file, small)
    for piece in small.pieces[:-1]:
        append_piece(file, piece)
    part = read_sweep(file)
    assert part is not None
    assert not part.is_complete
    append_piece(file, small.pieces[-1])
    whole = read_sweep(file)
    assert whole == small
    assert whole.is_complete
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(InvalidData, match=r"toy\.jsonl is no sweep"):
        read_sweep(file)


def test_the_page_says_what_was_found_and_what_was_not(small: Sweep) -> None:
    one, two = (yardstick(small, goal) for goal in (of_one_aim(small), small.goal))
    assert one is not None
    assert two is not None
    beyond = replace(two, best=2 * two.best)
    section = Section(
        sweep=small,
        one=(one, races(small, one, seeds=2, contestants=[DEFAULT, RANDOM])),
        two=(beyond, races(small, beyond, seeds=2, contestants=[RANDOM])),
        live=None,
        no_live="not here",
    )
    page = render([section], when="today", machine="none", versions="", minutes=0, seeds=2)
    lines = {line.partition(" | ")[0].strip("| "): line for line in page.splitlines()}
    assert "2x | ≥ 1.3x | ≥ 1.5x | yes, and the aim" in lines["toy: the sweep's best to its median"]
    assert "| not here |" in lines["toy: found live with 25 %"]
    assert "**no**" in lines["toy: recipes swept"]
    assert "| never [never, never] | never [never, never] | 2 of 2 |" in lines["random"]
    assert "inf" not in page.replace("info", "")


@pytest.mark.parametrize(
    ("name", "operators", "recipes"),
    [("caffe_lenet", ("Conv", "Gemm"), 80), ("minilm", ("MatMul",), 71)],
)
def test_a_grid_has_as_many_recipes_as_the_benchmark_needs(
    name: str, operators: Sequence[str], recipes: int
) -> None:
    ground = GROUNDS[name]
    found = evidence(*operators, residual_blocks=12, embedding_bytes=4096)
    assert all(isinstance(one, Choice) for one in ground.search.values.values())
    grid = list(space_of(found, ground.goal, ground.search).grid())
    assert len(grid) == recipes
    assert recipes >= 48
    short = quick(ground)
    assert len(list(space_of(found, short.goal, short.search).grid())) == 3


@pytest.mark.parametrize(
    ("model", "first"),
    [("caffe_lenet", ("static_int8",)), ("minilm", ("merge", "dynamic_int8"))],
)
def test_a_real_network_is_proposed_what_its_own_profile_speaks_for(
    model: str, first: tuple[str, ...]
) -> None:
    """The evidence is what was found of the real model when its sweep began."""
    sweep = read_sweep(SWEEPS / f"{model}.jsonl")
    assert sweep is not None
    assert sweep.is_complete
    proposed = propose(sweep.evidence, of_one_aim(sweep), sweep.search)
    assert tuple(step_name(step) for step in proposed[0].recipe.steps) == first
    assert "of the time" in proposed[0].reason
