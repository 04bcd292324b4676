"""Searches over a real model and real data, by the worker that a server starts."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from optimizers.contract.declaration import Choice
from optimizers.contract.digests import file_sha256
from optimizers.contract.directory import read_variant
from optimizers.contract.evaluation import Verdict
from optimizers.contract.goal import parse_requirement
from optimizers.contract.job import (
    VARIANT_DIRECTORY,
    JobResult,
    JobSpec,
    JobState,
    read_result,
    write_spec,
)
from optimizers.contract.search import Sampler, Search
from optimizers.contract.study import (
    FRONT_FILE,
    REPORT_FILE,
    TRIALS_FILE,
    Explanation,
    TrialState,
    read_explanation,
)
from tests.support.searches import search_spec, with_search

pytestmark = pytest.mark.timeout(600)
_PATIENCE_S = 250.0
"""Workers let everything else run first: on a busy machine that is long."""

DIVERGING = Search(
    sampler=Sampler.GRID,
    trials=6,
    minutes=5.0,
    steps=("finetune", "dynamic_int8"),
    values={
        "finetune.training.learning_rate": Choice((1e30,)),
        "finetune.training.batch_size": Choice((32,)),
        "finetune.training.optimizer": Choice(("sgd",)),
        "finetune.training.schedule": Choice(("constant",)),
        "finetune.training.epochs": Choice((1,)),
        "dynamic_int8.embeddings": Choice((False,)),
    },
    planner=False,
)
"""int8 per channel or per tensor or not at all, trained to no number or not at all: 5 recipes."""


Start = Callable[[Path], subprocess.Popen[bytes]]


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> JobSpec:
    """A search over a trained perceptron; how fast it is decides nothing."""
    return replace(search_spec(tmp_path_factory.mktemp("digits")), measure_timeout_s=1.0)


def job(directory: Path, spec: JobSpec) -> Path:
    directory.mkdir()
    write_spec(directory, spec)
    return directory


@pytest.fixture
def started() -> Iterator[Start]:
    """Starts a worker in a process group of its own; none outlives the test."""
    running: list[subprocess.Popen[bytes]] = []

    def start(directory: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "optimizers", "worker", str(directory)]
        running.append(subprocess.Popen(command, start_new_session=True))
        return running[-1]

    yield start
    for worker in running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()


def worked(directory: Path, start: Start) -> tuple[JobResult, Explanation]:
    assert start(directory).wait(_PATIENCE_S) == 0
    result, explanation = read_result(directory), read_explanation(directory)
    assert result is not None, (directory / "worker.log").read_text()
    assert explanation is not None, result.reason
    return result, explanation


def lines(directory: Path) -> list[dict[str, Any]]:
    file = directory / TRIALS_FILE
    if not file.exists():
        return []
    return [
        json.loads(line)
        for line in file.read_bytes().splitlines(keepends=True)
        if line.endswith(b"\n")
    ]


def test_a_search_ends_with_a_winner_that_the_gate_proves(
    tmp_path: Path, spec: JobSpec, started: Start
) -> None:
    directory = job(tmp_path / "job", spec)
    result, told = worked(directory, started)
    assert (result.state, result.reason) == (JobState.SUCCEEDED, "")
    assert told.winner is not None
    assert told.ended_because == f"trial {told.winner} is good enough: 'size >= 60 % better'"
    manifest = read_variant(directory / VARIANT_DIRECTORY).manifest
    assert manifest.recipe == told.trial(told.winner).recipe
    assert manifest.judged_by == spec.profile
    assert manifest.evaluation is not None
    assert manifest.evaluation.verdict is Verdict.PROVED
    assert manifest.evaluation.certificate.gate_sha256 == spec.data_sha256["gate"]
    assert manifest.made_from is not None
    assert "gate" not in manifest.made_from.data_sha256
    assert told.data["gate"] > 0
    assert (directory / REPORT_FILE).exists()
    assert (directory / FRONT_FILE).exists()


def test_a_killed_search_goes_on_and_repeats_nothing_that_was_told(
    tmp_path: Path, spec: JobSpec, started: Start
) -> None:
    goal = replace(spec.profile.goal, stop_when=())
    spec = replace(with_search(spec, DIVERGING), studies=tmp_path / "studies")
    directory = job(tmp_path / "job", replace(spec, profile=replace(spec.profile, goal=goal)))
    worker = started(directory)
    deadline = time.monotonic() + _PATIENCE_S
    while not _is_in_the_middle(lines(directory)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    before = lines(directory)
    told = [one for one in before if one["state"] != "running"]

    result, explanation = worked(directory, started)
    assert (result.state, result.reason) == (JobState.SUCCEEDED, "")
    after = lines(directory)[len(before) :]
    assert not {one["number"] for one in told} & {one["number"] for one in after}
    assert explanation.ended_because == "every recipe of the space was tried"
    assert [trial.number for trial in explanation.trials] == list(range(5))
    assert explanation.trials_total == DIVERGING.trials, "started again, it has the same budget"
    ended = Counter(one["number"] for one in (*before, *after) if one["state"] != "running")
    assert set(ended.values()) == {1}
    assert Counter(trial.state for trial in explanation.trials) == {
        TrialState.COMPLETE: 2,
        TrialState.ABANDONED: 2,  # trained without int8 it stays as large; the worse int8, trained
        TrialState.FAILED: 1,
    }
    assert "failed at level 2 of 4: training diverged" in explanation.trials[4].reason
    assert explanation.winner is not None
    assert not any((directory / "search" / "recipes").iterdir())


def test_a_search_whose_process_is_killed_goes_on_by_itself(
    tmp_path: Path, spec: JobSpec, started: Start
) -> None:
    """As the kernel does it for want of memory, or the runtime when it crashes on a model."""
    directory = job(tmp_path / "job", spec)
    worker = started(directory)
    deadline = time.monotonic() + _PATIENCE_S
    while not lines(directory):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    [searching] = children_of(worker.pid)
    os.kill(searching, signal.SIGKILL)
    assert worker.wait(_PATIENCE_S) == 0
    result, told = read_result(directory), read_explanation(directory)
    assert result is not None
    assert (result.state, result.reason) == (JobState.SUCCEEDED, "")
    assert told is not None
    assert TrialState.FAILED not in {trial.state for trial in told.trials}
    said = (directory / "progress.jsonl").read_text()
    assert said.count("search again: its process was ended by SIGKILL") == 1


def test_a_search_that_is_killed_wherever_it_is_has_failed(
    tmp_path: Path, spec: JobSpec, started: Start
) -> None:
    directory = job(tmp_path / "job", spec)
    worker = started(directory)
    killed = set()
    while worker.poll() is None:
        with contextlib.suppress(OSError):  # it ends by itself
            for child in children_of(worker.pid):
                killed.add(child)
                os.kill(child, signal.SIGKILL)
        time.sleep(0.02)
    result = read_result(directory)
    assert result is not None
    assert result.state is JobState.FAILED
    assert result.reason == "the process of stage search was ended by SIGKILL (out of memory?)"
    assert len(killed) == 4, "as many as a trial is given, and one more"


def children_of(process_id: int) -> list[int]:
    tasks = Path(f"/proc/{process_id}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def _is_in_the_middle(found: list[dict[str, Any]]) -> bool:
    """Whether a trial has ended and another one runs."""
    ended = {one["number"] for one in found if one["state"] != "running"}
    return bool(ended) and found[-1]["number"] not in ended


def test_without_a_winner_the_nearest_miss_is_told_and_the_gate_stays_unopened(
    tmp_path: Path, spec: JobSpec, started: Start
) -> None:
    search = replace(DIVERGING, trials=2)
    goal = replace(spec.profile.goal, stop_when=())
    goal = replace(goal, require=(parse_requirement("size >= 90 % better"),))
    spec = with_search(spec, search)
    directory = job(tmp_path / "job", replace(spec, profile=replace(spec.profile, goal=goal)))
    result, told = worked(directory, started)
    assert result.state is JobState.REFUSED
    assert told.winner is None
    assert result.reason.startswith("no recipe")
    assert told.nearest_miss in result.reason
    assert not (directory / "gate.opened").exists()
    assert not (directory / VARIANT_DIRECTORY).exists()
    assert (directory / REPORT_FILE).exists()


def test_search_data_that_taught_a_step_judges_no_trial(
    tmp_path: Path, spec: JobSpec, started: Start
) -> None:
    data = {**spec.data, "search": spec.data["train"]}
    digests = {name: file_sha256(path) for name, path in data.items()}
    directory = job(tmp_path / "job", replace(spec, data=data, data_sha256=digests))
    started(directory).wait(_PATIENCE_S)
    result = read_result(directory)
    assert result is not None
    assert result.state is JobState.FAILED
    assert "data.search (train.npz) and data.train (train.npz) share all" in result.reason
