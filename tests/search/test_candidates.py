"""Recipes of a search are built in children that are lowered, limited and never shown the gate."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from optimizers.contract.architecture import Simplify
from optimizers.contract.distillation import Distill, Finetune
from optimizers.contract.errors import HoneError, NotSupported
from optimizers.contract.goal import FigureName, Goal
from optimizers.contract.host import this_host
from optimizers.contract.job import PROGRESS_FILE, JobSpec
from optimizers.contract.profile import Task
from optimizers.contract.pruning import PruneChannels, Sparsify
from optimizers.contract.quantization import (
    Bf16,
    DynamicInt8,
    QuantizeAware,
    StaticInt8,
    Ternarize,
    WeightsNbits,
)
from optimizers.contract.recipe import Recipe
from optimizers.contract.training import Training
from optimizers.contract.tuning import SetSession, TuneSession
from optimizers.search.assessment import Assessor, Terms
from optimizers.search.builder import NotBuilt
from optimizers.search.candidates import Candidates
from optimizers.search.evaluator import CannotTry, Level
from optimizers.search.levels import at_level
from optimizers.search.measuring import Measuring
from optimizers.search.turns import Turns
from optimizers.search.working_time import TimeIsUp
from tests.support import models
from tests.support.data import write_data
from tests.support.specs import search_spec

STRUCTURE = Level(index=1, training_share=0.0)
NINTH, WHOLE = Level(index=2, training_share=1 / 9), Level(index=4, training_share=1.0)
LONG = Training(epochs=18)
ENDLESS = Recipe(steps=(Distill(training=Training(epochs=1_000_000)),))


MEASURING = """
import sys, time
from pathlib import Path
from optimizers.search.turns import Turns

with Turns(Path(sys.argv[1]), 2).measuring():
    time.sleep(100)
"""


def for_ever() -> float:
    return 1e9


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> JobSpec:
    home = tmp_path_factory.mktemp("model")
    model = models.perceptron(home / "net.onnx", sizes=(16, 64, 64, 4))
    write_data(home, model)
    data = {name: home / f"{name}.npz" for name in ("gate", "calibration", "train")}
    return search_spec(model, data, cache=home / "artefacts")


Opened = Callable[..., Candidates]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    all_opened: list[Candidates] = []

    def open_with(spec: JobSpec, processes: int = 1, *, is_guest: bool = False) -> Candidates:
        (tmp_path / "recipes").mkdir(exist_ok=True)
        candidates = Candidates(
            *(spec, tmp_path, tmp_path / "recipes", Turns(tmp_path / "turns", processes)),
            status=lambda: (0.25, "1 of 4 trials"),
            is_guest=is_guest,
        )
        all_opened.append(candidates)
        return candidates

    yield open_with
    for candidates in all_opened:
        candidates.close()


def children_of(process_id: int) -> list[int]:
    tasks = Path(f"/proc/{process_id}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def test_a_beginning_that_another_trial_built_comes_from_the_cache(
    opened: Opened, spec: JobSpec, tmp_path: Path
) -> None:
    candidates = opened(spec)
    with candidates.built(Recipe(steps=(Simplify(), PruneChannels())), "one", for_ever) as one:
        assert one.model.stat().st_size > 0
        assert one.built.made_from is not None
        assert set(one.built.made_from.data_sha256) == {"calibration", "train"}, "never the gate"
    with candidates.built(
        Recipe(steps=(Simplify(), PruneChannels(), DynamicInt8())), "two", for_ever
    ) as two:
        notes = two.built.records[1].notes
        assert any("taken from the cache" in note for note in notes)
        assert not any("cache" in note for note in two.built.records[2].notes)
    assert not list((tmp_path / "recipes").iterdir()), "what was measured is let go"
    progress = (tmp_path / "progress.jsonl").read_text()
    assert '"stage":"search"' in progress
    assert "1 of 4 trials; two, dynamic_int8" in progress


def test_a_recipe_without_steps_is_the_original(opened: Opened, spec: JobSpec) -> None:
    with opened(spec).built(Recipe(), "nothing", for_ever) as candidate:
        assert candidate.model == spec.original_file


def test_what_builds_when_time_is_up_is_ended_and_the_next_is_built(
    opened: Opened, spec: JobSpec
) -> None:
    candidates = opened(spec)
    priorities: set[int] = set()
    until = time.monotonic() + 90

    def left() -> float:
        """Nothing once a child of the builder was seen at work."""
        builders = children_of(os.getpid())
        for child in [child for builder in builders for child in children_of(builder)]:
            priorities.add(os.getpriority(os.PRIO_PROCESS, child))
        return 0.0 if 19 in priorities or time.monotonic() > until else 1.0

    with pytest.raises(TimeIsUp), candidates.built(ENDLESS, "endless", left):
        pass
    assert 19 in priorities, "it builds at the lowest priority"
    assert not [one for builder in children_of(os.getpid()) for one in children_of(builder)]
    with candidates.built(Recipe(steps=(Simplify(), DynamicInt8())), "next", for_ever) as one:
        assert one.model.exists()


def test_what_builds_stands_still_while_another_process_measures_and_until_it_dies(
    opened: Opened, spec: JobSpec, tmp_path: Path
) -> None:
    candidates = opened(spec, processes=2)
    states: list[str] = []
    until = time.monotonic() + 150
    command = [sys.executable, "-c", MEASURING, str(tmp_path / "turns")]
    with subprocess.Popen(command) as measuring:
        # Both are children of this process.
        def left() -> float:
            for builder in set(children_of(os.getpid())) - {measuring.pid}:
                for child in children_of(builder):
                    stat = Path(f"/proc/{child}/stat").read_text()
                    states.append(stat.rpartition(")")[2].split()[0])
            if states and states[-1] == "T":
                measuring.kill()
            went_on = "T" in states and states[-1] != "T"
            return 0.0 if went_on or time.monotonic() > until else 1.0

        with pytest.raises(TimeIsUp), candidates.built(ENDLESS, "endless", left):
            pass
        measuring.kill()
    assert "T" in states
    assert states[-1] != "T"


def test_a_build_that_takes_too_long_is_ended_and_says_so(opened: Opened, spec: JobSpec) -> None:
    candidates = opened(replace(spec, build_timeout_s=0.5))
    with (
        pytest.raises(NotBuilt, match=r"building took longer than its limit of 0\.5 s"),
        candidates.built(ENDLESS, "endless", for_ever),
    ):
        pass


def test_a_step_that_fails_gives_its_reason(opened: Opened, spec: JobSpec) -> None:
    failing = Recipe(steps=(Finetune(training=Training(learning_rate=1e30, epochs=1)),))
    with (
        pytest.raises(NotBuilt, match="diverged"),
        opened(spec).built(failing, "failing", for_ever),
    ):
        pass


def test_a_builder_that_was_killed_costs_one_recipe_and_is_replaced(
    opened: Opened, spec: JobSpec
) -> None:
    candidates = opened(spec)

    def left() -> float:
        for builder in children_of(os.getpid()):
            for child in children_of(builder):
                os.kill(builder, signal.SIGKILL)
                until = time.monotonic() + 30
                while Path(f"/proc/{child}/stat").exists() and time.monotonic() < until:
                    time.sleep(0.05)
                assert time.monotonic() < until, "its child outlived it"
        return 1.0

    with pytest.raises(NotBuilt, match="ended"), candidates.built(ENDLESS, "endless", left):
        pass
    with candidates.built(Recipe(steps=(DynamicInt8(),)), "next", for_ever) as one:
        assert one.model.exists()


def test_a_machine_whose_tools_do_not_load_says_so_instead_of_failing_every_recipe(
    opened: Opened, spec: JobSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnx.py").write_text("raise ImportError('this onnx is broken')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[2]}")
    with (
        pytest.raises(CannotTry, match="does not come up on this machine"),
        opened(spec).built(Recipe(steps=(DynamicInt8(),)), "one", for_ever),
    ):
        pass
    assert not list((tmp_path / "recipes").iterdir())


def test_a_full_disk_is_no_fault_of_the_recipe(
    opened: Opened, spec: JobSpec, tmp_path: Path
) -> None:
    (tmp_path / PROGRESS_FILE).symlink_to("/dev/full")
    candidates = opened(spec)
    with (
        pytest.raises(CannotTry, match="takes no more"),
        candidates.built(Recipe(steps=(DynamicInt8(),)), "one", for_ever),
    ):
        pass
    (tmp_path / PROGRESS_FILE).unlink()
    with candidates.built(Recipe(steps=(DynamicInt8(),)), "again", for_ever) as one:
        assert one.model.exists()


@pytest.mark.parametrize(("is_guest", "expected"), [(False, NotBuilt), (True, NotSupported)])
def test_what_a_helper_has_not_the_memory_for_is_left_to_others(
    opened: Opened, spec: JobSpec, is_guest: bool, expected: type[HoneError]
) -> None:
    def killed() -> float:
        """As the kernel ends what takes too much memory."""
        for builder in children_of(os.getpid()):
            for child in children_of(builder):
                os.kill(child, signal.SIGKILL)
        return 1.0

    candidates = opened(spec, is_guest=is_guest)
    with (
        pytest.raises(expected, match="was ended by SIGKILL"),
        candidates.built(ENDLESS, "endless", killed),
    ):
        pass


def test_how_a_model_is_opened_is_a_change_at_every_level(
    opened: Opened, spec: JobSpec, tmp_path: Path
) -> None:
    terms = Terms(
        original=spec.original_file,
        original_session=spec.original_session,
        goal=Goal(optimize=(FigureName.SIZE,)),
        task=Task.CLASSIFICATION,
        data=None,
        host=this_host(1),
    )
    with Assessor(terms) as assessor:
        turns = Turns(tmp_path / "turns", 1)
        measuring = Measuring(opened(spec), assessor, turns, for_ever)
        otherwise, the_same = Recipe(steps=(SetSession(arena=True),)), Recipe(steps=(Bf16(),))
        for level in (STRUCTURE, WHOLE):
            assert measuring.evaluate(otherwise, level).broken == ""
            assert "changes nothing: onnxruntime" in measuring.evaluate(the_same, level).broken


@pytest.mark.parametrize(
    ("recipe", "built"),
    [
        ((Simplify(), Finetune()), (Simplify(),)),
        ((Sparsify(), PruneChannels(), Distill()), (PruneChannels(),)),
        ((QuantizeAware(int8=StaticInt8(samples=9)),), (StaticInt8(samples=9),)),
        ((WeightsNbits(training=Training()),), (WeightsNbits(),)),
        ((Ternarize(training=Training()),), (Ternarize(),)),
        ((DynamicInt8(), TuneSession()), (DynamicInt8(), TuneSession())),
    ],
)
def test_at_the_level_of_structure_nothing_trains(
    recipe: tuple[Simplify, ...], built: tuple[Simplify, ...]
) -> None:
    assert at_level(Recipe(steps=recipe), STRUCTURE) == Recipe(steps=built)


def test_later_levels_train_for_their_share_of_epochs_and_at_least_one() -> None:
    recipe = Recipe(steps=(PruneChannels(), Distill(training=LONG), TuneSession()))
    assert at_level(recipe, NINTH) == Recipe(
        steps=(PruneChannels(), Distill(training=replace(LONG, epochs=2)))
    )
    short = Recipe(steps=(QuantizeAware(training=Training(epochs=3)),))
    [step] = at_level(short, NINTH).steps
    assert isinstance(step, QuantizeAware)
    assert step.training.epochs == 1
    assert at_level(short, WHOLE) == short
