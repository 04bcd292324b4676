"""A build ends when it is told to, and when its time is over; no process of it stays."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from optimizers.contract.digests import file_sha256
from optimizers.contract.distillation import Distill
from optimizers.contract.job import JobSpec, JobState
from optimizers.contract.profile import Profile, Task
from optimizers.contract.recipe import Recipe
from optimizers.contract.runtime import SessionSpec
from optimizers.contract.training import Training
from server.jobs import Job, Jobs
from tests.support import models
from tests.support.data import write_data

pytestmark = pytest.mark.alone  # ends are waited for two seconds

WITHIN_S = 2.0
ENDLESS = "recipe: [{distill: {training: {epochs: 1000000}}}]\n"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    model = models.perceptron(tmp_path / "net.onnx", sizes=(16, 64, 64, 4))
    write_data(tmp_path, model)
    return model


def start(tmp_path: Path, model: Path, *more: str) -> subprocess.Popen[str]:
    profile = tmp_path / "endless.yaml"
    profile.write_text(ENDLESS)
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "optimizers", "build", str(model)),
            *("--profile-file", str(profile), "-o", str(tmp_path / "out/variant")),
            *("--task", "classification", "--train", str(tmp_path / "train.npz"), *more),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def descendants(process_id: int) -> Iterator[int]:
    for task in Path(f"/proc/{process_id}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield int(child)
            yield from descendants(int(child))


def lives(process_id: int) -> bool:
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def those_left(workers: list[int], by_s: float) -> list[int]:
    """Who still lives then; a killed process of low priority takes a moment to end."""
    while (left := [one for one in workers if lives(one)]) and time.monotonic() < by_s:
        time.sleep(0.02)
    return left


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_the_command_ends_within_two_seconds_of_being_told(
    tmp_path: Path, model: Path, sent: signal.Signals
) -> None:
    command = start(tmp_path, model)
    assert command.stdout is not None
    for line in command.stdout:
        if "distill" in line:
            break
    workers = list(descendants(command.pid))
    assert workers, "nothing was building"
    told_s = time.monotonic()
    os.kill(command.pid, sent)
    command.wait(60)
    assert time.monotonic() - told_s < WITHIN_S
    assert command.returncode != 0
    assert not those_left(workers, told_s + WITHIN_S)
    assert not list((tmp_path / "out").iterdir())
    command.stdout.close()


def test_a_build_that_takes_too_long_names_its_limit_and_its_step(
    tmp_path: Path, model: Path
) -> None:
    command = start(tmp_path, model, "--build-seconds", "10")
    said, _ = command.communicate(timeout=120)
    assert command.returncode == 1
    assert said.splitlines()[-1] == (
        "failed: building took longer than its limit of 10 s; it was ended in distill"
    )


async def test_a_job_that_trains_is_cancelled_within_two_seconds(
    tmp_path: Path, model: Path
) -> None:
    async def ignore(job: Job) -> None:
        pass

    spec = JobSpec(
        id="abcdefabcdef",
        model="net",
        version=1,
        profile=Profile(
            name="endless",
            recipe=Recipe(steps=(Distill(training=Training(epochs=1_000_000)),)),
        ),
        task=Task.CLASSIFICATION,
        original_file=model,
        original_name="net.onnx",
        original_sha256=file_sha256(model),
        original_session=SessionSpec(),
        data={"train": tmp_path / "train.npz"},
        data_sha256={"train": file_sha256(tmp_path / "train.npz")},
    )
    jobs = Jobs(tmp_path / "jobs", parallel=1, stall_timeout_s=120, on_end=ignore)
    try:
        await jobs.submit(spec)
        async with asyncio.timeout(150):
            while (job := jobs.get(spec.id)).progress is None or job.progress.stage != "distill":
                assert not job.has_ended, job.result
                await asyncio.sleep(0.05)
        workers = list(descendants(os.getpid()))
        assert workers, "nothing was building"
        told_s = time.monotonic()
        job = await jobs.cancel(spec.id)
        assert time.monotonic() - told_s < WITHIN_S
        assert job.state is JobState.CANCELLED
        assert not those_left(workers, told_s + WITHIN_S)
    finally:
        await jobs.close()


IN_THE_BACKGROUND = ("sh", "-c", 'trap "" INT; exec "$@"', "sh")
CHILD_OF_A_TEST = "import subprocess, tests.conftest; subprocess.run(['cat', '/proc/self/status'])"


def test_tests_that_run_in_the_background_start_processes_that_can_be_interrupted() -> None:
    command = [*IN_THE_BACKGROUND, sys.executable, "-c", CHILD_OF_A_TEST]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    [ignored] = [line.split()[1] for line in told.splitlines() if line.startswith("SigIgn")]
    assert not int(ignored, 16) & 1 << (signal.SIGINT - 1)
