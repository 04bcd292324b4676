"""Optuna proposes what the study has not had, what is enqueued first, and remembers it."""

from __future__ import annotations

from math import nan
from pathlib import Path
from statistics import median

import pytest

from optimizers.contract.architecture import Merge
from optimizers.contract.distillation import Distill
from optimizers.contract.pruning import PruneChannels
from optimizers.contract.quantization import DynamicInt8, Fp16
from optimizers.contract.recipe import Recipe
from optimizers.contract.search import Sampler
from optimizers.search.sampling import Asked, Known, Sampling
from tests.support.studies import conditional, cost, sampling, small, spread


@pytest.mark.parametrize("sampler", list(Sampler))
def test_every_recipe_is_proposed_once_and_then_none(sampler: Sampler) -> None:
    study = sampling(small(), sampler)
    recipes: list[Recipe] = []
    while (asked := study.ask()) is not None and len(recipes) < 10:
        recipes.append(asked.recipe)
        study.tell(asked.number, [0.0])
    assert sorted(map(str, recipes)) == sorted(map(str, small().grid()))
    assert len(set(map(repr, recipes))) == len(recipes)
    assert study.ask() is None


def test_a_grid_is_gone_through_in_its_order() -> None:
    study = sampling(conditional(), Sampler.GRID)
    grid = conditional().grid()
    for _ in range(20):
        asked = study.ask()
        assert asked is not None
        assert (asked.recipe, asked.origin) == (next(grid), "grid")


def test_what_is_enqueued_comes_first_and_in_order_and_once() -> None:
    study = sampling(conditional())
    inside = Recipe(steps=(PruneChannels(ratio=0.25), Distill()))
    outside = Recipe(steps=(DynamicInt8(exclude=("a",)),))
    assert study.enqueue(inside, "conv is 83 %")
    assert study.enqueue(outside, "a guess")
    assert not study.enqueue(inside, "again")
    assert not study.enqueue(Recipe(), "the original")
    first, second, third = study.ask(), study.ask(), study.ask()
    assert first == Asked(number=0, recipe=inside, origin="conv is 83 %")
    assert second == Asked(number=1, recipe=outside, origin="a guess")
    assert third is not None
    assert third.origin == "tpe"


@pytest.mark.parametrize("sampler", list(Sampler))
def test_a_recipe_from_outside_the_space_is_remembered_and_harms_no_sampler(
    sampler: Sampler,
) -> None:
    study = sampling(conditional(), sampler, objectives=2)
    outside = Recipe(steps=(Fp16(),))
    study.enqueue(outside, "a guess")
    for _ in range(16):
        asked = study.ask()
        assert asked is not None
        study.tell(asked.number, spread(asked.recipe), 0.25)
    first = study.told()[0]
    assert (first.recipe, first.values, first.violation) == (outside, spread(outside), 0.25)
    assert len(study.told()) == 16
    assert not study.enqueue(outside, "again")


def test_a_failed_trial_has_its_reason_and_is_not_tried_again() -> None:
    study = sampling(small(), Sampler.GRID)
    asked = study.ask()
    assert asked is not None
    study.fail(asked.number, "it did not fit")
    [told] = study.told()
    assert (told.number, told.recipe, told.values) == (asked.number, asked.recipe, ())
    assert told.reason == "it did not fit"
    assert study.ask() != asked


def test_the_first_who_tells_counts() -> None:
    study = sampling(small())
    asked = study.ask()
    assert asked is not None
    study.tell(asked.number, [1.0], 0.5)
    study.tell(asked.number, [2.0])
    study.fail(asked.number, "too late")
    [told] = study.told()
    assert (told.values, told.violation, told.reason) == ((1.0,), 0.5, "")


@pytest.mark.parametrize("sampler", list(Sampler))
def test_who_tells_too_late_is_not_heard_however_much_is_known(sampler: Sampler) -> None:
    """A sampler that has learned enough proposes anew whenever a trial is looked at."""
    study = sampling(conditional(), sampler)
    for _ in range(14):
        asked = study.ask()
        assert asked is not None
        study.tell(asked.number, [cost(asked.recipe)])
    told = study.told()
    study.tell(told[0].number, [-1.0])
    study.tell_so_far(told[1].number, [-1.0], 0.0)
    study.fail(told[2].number, "too late")
    assert study.told() == told


def test_a_grid_proposes_nothing_else_where_another_process_was_quicker(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/study.db"
    other = sampling(conditional(), Sampler.GRID, storage=storage)
    grid = conditional().grid()

    class Slow(Sampling):
        """What it puts in at first is taken by the other one before it asks."""

        def enqueue(self, recipe: Recipe, origin: str, *, instead_of: int | None = None) -> bool:
            was_new = super().enqueue(recipe, origin, instead_of=instead_of)
            if len(other.running()) < 3:
                taken = other.ask()
                assert taken is not None
                assert taken.recipe == next(grid)
            return was_new

    slow = Slow(
        conditional(),
        study="one",
        sampler=Sampler.GRID,
        objectives=1,
        seed=0,
        trials=9,
        storage=storage,
    )
    asked = slow.ask()
    assert asked is not None
    assert (asked.recipe, asked.origin) == (next(grid), "grid")
    slow.close()
    other.close()


@pytest.mark.parametrize("values", [[nan], [], [1.0, 2.0]])
def test_values_that_mean_nothing_are_refused(values: list[float]) -> None:
    study = sampling(small())
    asked = study.ask()
    assert asked is not None
    with pytest.raises(ValueError, match="expected 1 values"):
        study.tell(asked.number, values)


def results_of_chance() -> list[Known]:
    earlier = sampling(conditional(), Sampler.RANDOM, seed=11)
    for _ in range(60):
        asked = earlier.ask()
        assert asked is not None
        earlier.tell(asked.number, [cost(asked.recipe)])
    return [Known(recipe=one.recipe, values=one.values) for one in earlier.told()]


def test_the_best_of_earlier_studies_are_measured_again() -> None:
    known = results_of_chance()
    study = sampling(conditional())
    study.warm([*known, Known(recipe=Recipe(steps=(Fp16(),)), values=(-9.0,))])
    study.warm(known)
    assert study.told() == ()
    for one in sorted(known, key=lambda one: one.values)[:3]:
        asked = study.ask()
        assert asked is not None
        assert asked.recipe == one.recipe
        assert asked.origin == "among the best of an earlier study"
    following = study.ask()
    assert following is not None
    assert following.origin == "tpe"


def test_earlier_studies_lead_the_sampler() -> None:
    known = results_of_chance()

    def proposed(warm: bool) -> float:
        costs = []
        for seed in range(6):
            study = sampling(conditional(), seed=seed)
            study.warm(known if warm else [])
            for asked in [study.ask() for _ in range(9)]:
                assert asked is not None
                if asked.origin == "tpe":
                    costs.append(cost(asked.recipe))
        return median(costs)

    assert proposed(warm=True) < proposed(warm=False) - 0.2


def test_values_that_an_operator_leaves_out_do_not_come_back_from_an_earlier_study() -> None:
    study = sampling(small())
    known = [
        Known(recipe=Recipe(steps=(PruneChannels(ratio=ratio),)), values=(-ratio,))
        for ratio in (0.25, 0.75)
    ]
    assert small().parameters(known[1].recipe) is None
    study.warm(known)
    first, second = study.ask(), study.ask()
    assert first is not None
    assert first.recipe == known[0].recipe
    assert second is not None
    assert second.origin == "tpe"


def test_earlier_studies_of_another_goal_are_passed_over() -> None:
    study = sampling(conditional())
    study.warm([Known(recipe=Recipe(steps=(Merge(),)), values=(0.0, 0.0))])
    asked = study.ask()
    assert asked is not None
    assert asked.origin == "tpe"


def test_what_was_measured_of_trials_that_wait_leads_the_sampler() -> None:
    def proposed(tell: bool) -> float:
        costs = []
        for seed in range(6):
            study = sampling(conditional(), seed=seed)
            for asked in [study.ask() for _ in range(20)]:
                assert asked is not None
                if tell:
                    study.tell_so_far(asked.number, [cost(asked.recipe)], 0.0)
            assert len(study.running()) == 20
            for asked in [study.ask() for _ in range(6)]:
                assert asked is not None
                costs.append(cost(asked.recipe))
        return median(costs)

    assert proposed(tell=True) < proposed(tell=False) - 0.1


@pytest.mark.parametrize(("trials", "known"), [(8, 3), (20, 5), (200, 10)])
def test_a_quarter_of_the_trials_are_known_before_any_is_modelled(trials: int, known: int) -> None:
    """Until then a proposal is the same whatever was told."""

    def proposed(count: int, sign: float) -> list[Recipe]:
        found = []
        for seed in range(8):
            study = sampling(conditional(), seed=seed, trials=trials)
            for _ in range(count):
                asked = study.ask()
                assert asked is not None
                study.tell(asked.number, [sign * cost(asked.recipe)])
            following = study.ask()
            assert following is not None
            found.append(following.recipe)
        return found

    assert proposed(known - 1, 1.0) == proposed(known - 1, -1.0)
    assert proposed(known, 1.0) != proposed(known, -1.0)
