"""A real sweep over a perceptron that reads digits, and a live search beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.search.live import search_live
from benchmarks.search.score import of_one_aim, yardstick
from benchmarks.search.sweep import Sweep, read_sweep
from benchmarks.search.sweeping import Sweeper
from optimizers.contract.declaration import Choice
from optimizers.contract.errors import InvalidData
from optimizers.contract.goal import FigureName, Goal, parse_requirement
from optimizers.contract.job import JobSpec
from optimizers.contract.search import Search
from tests.support.searches import search_spec

GOAL = Goal(optimize=(FigureName.SIZE,), require=(parse_requirement("agreement >= 0.9"),))
SEARCH = Search(
    steps=("low_rank", "weights_nbits"),
    values={
        "low_rank.keep": Choice((0.9,)),
        "weights_nbits.bits": Choice((8, 4)),
        "weights_nbits.block_size": Choice((32,)),
        "weights_nbits.embeddings": Choice((False,)),
    },
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweeping")


@pytest.fixture(scope="module")
def spec(home: Path) -> JobSpec:
    return search_spec(home, goal=GOAL, search=SEARCH)


def sweeper(spec: JobSpec, home: Path) -> tuple[Sweeper, list[str]]:
    said: list[str] = []
    return Sweeper(
        spec=spec, about="", file=home / "digits.jsonl", home=home / "sweep", tell=said.append
    ), said


@pytest.fixture(scope="module")
def sweep(spec: JobSpec, home: Path) -> Sweep:
    """5 recipes, none of which trains, so 10 pieces of work."""
    one, said = sweeper(spec, home)
    found = one.run()
    assert len(said) == 10
    return found


def test_every_recipe_is_measured_as_a_search_would_measure_it(sweep: Sweep) -> None:
    assert sweep.is_complete
    assert len(sweep.recipes) == 5
    trials = sweep.trials(sweep.goal)
    assert all(trial.figure(FigureName.SIZE) and not trial.reason for trial in trials)
    best = sweep.outcome(sweep.goal).winner
    assert best is not None
    feasible = [trial for trial in trials if not trial.violation]
    sizes = [trial.figure(FigureName.SIZE) for trial in feasible]
    assert best.figure(FigureName.SIZE) == min(
        (one for one in sizes if one is not None), key=lambda one: one.value.value
    )


def test_what_was_made_by_one_recipe_is_not_made_by_another(sweep: Sweep) -> None:
    made = [one for piece in sweep.pieces for one in piece.made]
    assert len(made) == len(set(made)) == 5
    assert all(len(piece.made) <= 1 for piece in sweep.pieces)
    assert sweep.look_s < min(piece.building_s for piece in sweep.pieces if piece.made)
    spent = sum(piece.building_s + piece.measuring_s for piece in sweep.pieces)
    assert sweep.seconds == pytest.approx(spent, rel=0.2)


def test_a_sweep_that_was_ended_goes_on_where_it_was(
    sweep: Sweep, spec: JobSpec, home: Path
) -> None:
    file = home / "digits.jsonl"
    whole = file.read_bytes()
    file.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    one, said = sweeper(spec, home)
    again = one.run()
    assert [text.partition(" ")[0] for text in said] == ["1/1"]
    assert again.pieces[:-1] == sweep.pieces[:-1]
    assert again.is_complete
    file.write_bytes(whole)
    one, said = sweeper(spec, home)
    assert one.run() == sweep == read_sweep(file)
    assert not said


def test_what_a_piece_that_was_cut_had_made_is_made_again_and_charged(
    sweep: Sweep, spec: JobSpec, home: Path
) -> None:
    file, cache = home / "digits.jsonl", home / "sweep" / "artefacts"
    whole = file.read_bytes()
    before = {entry.name: entry.stat().st_ino for entry in cache.iterdir()}
    file.write_bytes(b"".join(whole.splitlines(keepends=True)[:-2]))
    one, _ = sweeper(spec, home)
    again = one.run()
    file.write_bytes(whole)
    after = {entry.name: entry.stat().st_ino for entry in cache.iterdir()}
    assert before.keys() == after.keys()
    [rebuilt] = [name for name in before if before[name] != after[name]]
    assert rebuilt
    assert len(again.pieces[-2].made) == 1
    assert again.pieces[-2].building_s > again.look_s


def test_a_sweep_of_another_grid_is_not_taken_for_this_one(
    sweep: Sweep, spec: JobSpec, home: Path
) -> None:
    search = replace(SEARCH, values={**SEARCH.values, "low_rank.keep": Choice((0.8,))})
    other = replace(spec, profile=replace(spec.profile, search=search))
    one, _ = sweeper(other, home)
    with pytest.raises(InvalidData, match="another grid or goal"):
        one.run()


def test_a_live_search_with_a_quarter_is_held_against_the_sweep(
    sweep: Sweep, spec: JobSpec, home: Path
) -> None:
    stick = yardstick(sweep, of_one_aim(sweep))
    assert stick is not None
    # A quarter of this sweep's seconds would not do to start a search.
    patient = replace(sweep, pieces=tuple(replace(one, measuring_s=20.0) for one in sweep.pieces))
    live = search_live(spec, patient, stick, home / "live")
    assert live.winner is not None
    assert live.trials == patient.search.trials == 1
    # Sizes are the same whenever they are weighed.
    assert live.share == live.swept
    assert 0 < live.share <= 1
    assert live.seconds <= 60 * patient.search.minutes
