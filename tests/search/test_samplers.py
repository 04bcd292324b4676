"""What a sampler was told makes its proposals better than chance, over many seeds."""

from __future__ import annotations

from math import inf
from statistics import median

import pytest

from optimizers.contract.pruning import PruneChannels
from optimizers.contract.recipe import Recipe
from optimizers.contract.search import Sampler
from optimizers.search.dominance import hypervolume
from tests.support.studies import conditional, cost, sampling, spread


def best_of(sampler: Sampler, seed: int, trials: int) -> float:
    study = sampling(conditional(), sampler, seed=seed)
    found = inf
    for _ in range(trials):
        asked = study.ask()
        assert asked is not None
        study.tell(asked.number, [cost(asked.recipe)])
        found = min(found, cost(asked.recipe))
    return found


def test_tpe_finds_better_recipes_than_chance() -> None:
    seeds = range(20)
    by_tpe = median(best_of(Sampler.TPE, seed, 40) for seed in seeds)
    by_chance = median(best_of(Sampler.RANDOM, seed, 40) for seed in seeds)
    assert by_tpe < by_chance


def volume_of(sampler: Sampler, seed: int, trials: int) -> float:
    study = sampling(conditional(), sampler, objectives=2, seed=seed)
    points = []
    for _ in range(trials):
        asked = study.ask()
        assert asked is not None
        points.append(spread(asked.recipe))
        study.tell(asked.number, points[-1])
    return hypervolume(points, (1.0, 2.0))


def test_the_front_of_nsga2_covers_more_than_chance() -> None:
    seeds = range(12)
    by_genes = median(volume_of(Sampler.NSGA2, seed, 72) for seed in seeds)
    by_chance = median(volume_of(Sampler.RANDOM, seed, 72) for seed in seeds)
    assert by_genes > by_chance


def test_tpe_takes_several_objectives() -> None:
    assert volume_of(Sampler.TPE, 0, 25) > 0


def misses(recipe: Recipe) -> float:
    """Only what is pruned by half misses nothing."""
    ratios = [step.ratio for step in recipe.steps if isinstance(step, PruneChannels)]
    return abs(ratios[0] - 0.5) if ratios else 1.0


def hits(sampler: Sampler, seed: int) -> int:
    """How many of the last 40 of 60 proposals miss nothing."""
    study = sampling(conditional(), sampler, seed=seed)
    missed = []
    for _ in range(60):
        asked = study.ask()
        assert asked is not None
        missed.append(misses(asked.recipe))
        # The more a recipe misses, the smaller its value: only violations can lead.
        study.tell(asked.number, [-missed[-1]], missed[-1])
    return sum(one == 0 for one in missed[-40:])


@pytest.mark.parametrize("sampler", [Sampler.TPE, Sampler.NSGA2])
def test_what_misses_nothing_is_proposed_more_often_than_by_chance(sampler: Sampler) -> None:
    seeds = range(6)
    by_chance = median(hits(Sampler.RANDOM, seed) for seed in seeds)
    assert median(hits(sampler, seed) for seed in seeds) > 2 * by_chance


def test_tpe_keeps_away_from_what_fails() -> None:
    failed = []
    study = sampling(conditional(), seed=1)
    for _ in range(50):
        asked = study.ask()
        assert asked is not None
        failed.append("prune_channels" in str(asked.recipe))
        if failed[-1]:
            study.fail(asked.number, "it cannot be pruned")
        else:
            study.tell(asked.number, [cost(asked.recipe)])
    assert sum(failed[-25:]) < sum(failed[:25])


def test_a_sampler_that_has_found_its_best_goes_on_to_something_else() -> None:
    origins = set()
    study = sampling(conditional(), seed=0)
    for _ in range(50):
        asked = study.ask()
        assert asked is not None
        origins.add(asked.origin)
        study.tell(asked.number, [-misses(asked.recipe)], misses(asked.recipe))
    assert origins == {"tpe"}
