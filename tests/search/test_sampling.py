"""Optuna proposes what helps, nothing twice, and remembers through crashes."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from math import inf, nan
from pathlib import Path
from statistics import median

import pytest

from optimizers.contract.architecture import Merge
from optimizers.contract.declaration import Choice, Real
from optimizers.contract.distillation import Distill
from optimizers.contract.errors import InvalidDocument, NotSupported
from optimizers.contract.pruning import PruneChannels
from optimizers.contract.quantization import DynamicInt8, Fp16
from optimizers.contract.recipe import Recipe
from optimizers.contract.search import Sampler
from optimizers.search.sampling import Asked, Known
from optimizers.search.space import Space
from optimizers.search.storage import engine_address
from tests.support.postgres import new_database, postgres
from tests.support.spaces import space_over
from tests.support.studies import conditional, cost, sampling, spread

ROOT = Path(__file__).parents[2]
SMALL: dict[str, Choice | Real] = {
    "prune_channels.ratio": Choice((0.25, 0.5)),
    "prune_channels.importance": Choice(("l2",)),
    "prune_channels.round_to": Choice((8,)),
}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres() as folder:
        yield folder


@pytest.fixture(params=["sqlite", "postgresql"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/study.db"
    return new_database(request.getfixturevalue("server"))


def small() -> Space:
    """2 x 3 - 1 recipes."""
    return space_over("merge", "prune_channels", values=SMALL)


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


@pytest.mark.parametrize("sampler", [Sampler.RANDOM, Sampler.TPE, Sampler.NSGA2])
def test_the_same_seed_and_history_propose_the_same(sampler: Sampler, tmp_path: Path) -> None:
    def proposals(storage: str, opened_again: bool) -> list[Asked]:
        found = []
        study = sampling(conditional(), sampler, seed=7, storage=storage)
        for index in range(16):
            if opened_again and index % 5 == 4:
                study.close()
                study = sampling(conditional(), sampler, seed=7, storage=storage)
            asked = study.ask()
            assert asked is not None
            study.tell(asked.number, [cost(asked.recipe)])
            found.append(asked)
        study.close()
        return found

    kept = proposals(f"sqlite:///{tmp_path}/study.db", opened_again=True)
    assert kept == proposals("", opened_again=False)
    other = sampling(conditional(), sampler, seed=8).ask()
    assert other is not None
    assert other.recipe != kept[0].recipe


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


@pytest.mark.parametrize("values", [[nan], [], [1.0, 2.0]])
def test_values_that_mean_nothing_are_refused(values: list[float]) -> None:
    study = sampling(small())
    asked = study.ask()
    assert asked is not None
    with pytest.raises(ValueError, match="expected 1 values"):
        study.tell(asked.number, values)


def test_the_worst_is_infinite(storage: str) -> None:
    study = sampling(conditional(), storage=storage)
    for _ in range(14):
        asked = study.ask()
        assert asked is not None
        study.tell(asked.number, [inf], inf)
    assert {one.values for one in study.told()} == {(inf,)}
    study.close()


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


def test_earlier_studies_of_another_goal_are_passed_over() -> None:
    study = sampling(conditional())
    study.warm([Known(recipe=Recipe(steps=(Merge(),)), values=(0.0, 0.0))])
    asked = study.ask()
    assert asked is not None
    assert asked.origin == "tpe"


HELD = """
import sys
from tests.support.studies import conditional, cost, sampling
study = sampling(conditional(), seed=5, storage=sys.argv[1])
for _ in range(3):
    asked = study.ask()
    study.tell(asked.number, [cost(asked.recipe)], 0.5)
print(study.ask().number, flush=True)
sys.stdin.read()
"""


def test_a_study_that_is_killed_loses_only_the_trial_that_ran(storage: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", HELD, storage],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        number = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
    study = sampling(conditional(), seed=5, storage=storage)
    told = study.told()
    assert [one.values for one in told] == [(cost(one.recipe),) for one in told]
    assert {one.violation for one in told} == {0.5}
    assert len(told) == 3
    [lost] = study.running()
    assert lost.number == number
    assert study.retry(number) == lost
    with pytest.raises(KeyError):
        study.retry(told[0].number)
    study.tell(number, [cost(lost.recipe)])
    assert study.running() == ()
    assert len(study.told()) == 4
    following = study.ask()
    assert following is not None
    assert following.recipe not in [one.recipe for one in study.told()]
    study.close()


SHARED = """
import sys
from tests.search.test_sampling import small
from tests.support.studies import sampling
study = sampling(small(), seed=5, storage=sys.argv[1])
while (asked := study.ask()) is not None:
    study.tell(asked.number, [0.0])
    print(asked.recipe.to_data(), flush=True)
study.close()
"""


def test_two_that_begin_at_once_share_the_work(storage: str) -> None:
    workers = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", SHARED, storage],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [worker.communicate(timeout=120)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    recipes = "".join(outputs).splitlines()
    assert sorted(recipes) == sorted(str(recipe.to_data()) for recipe in small().grid())


def test_another_space_is_no_way_to_go_on(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/study.db"
    sampling(small(), storage=storage).close()
    with pytest.raises(InvalidDocument, match=r"prune_channels\.importance"):
        sampling(conditional(), storage=storage)
    with pytest.raises(InvalidDocument, match="figures to optimise"):
        sampling(small(), objectives=2, storage=storage)


@pytest.mark.parametrize(
    "storage",
    ["sqlite:////nowhere/at/all/study.db", "nonsense://host/name", "postgresql://127.0.0.1:1/hone"],
)
def test_a_database_out_of_reach_is_named(storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optimizers.search.storage._PAUSE_S", 0.0)
    with pytest.raises(NotSupported, match=r"search\.storage cannot be opened"):
        sampling(small(), storage=storage)


def test_addresses_name_the_driver_that_is_there() -> None:
    assert engine_address("postgresql://u@h/n") == "postgresql+psycopg://u@h/n"
    assert engine_address("postgresql+psycopg2://u@h/n") == "postgresql+psycopg2://u@h/n"
    assert engine_address("sqlite:////a/b.db") == "sqlite:////a/b.db"
