"""A job in its directory: what it tells, what it refuses, how it ends."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from optimizers.contract.digests import file_sha256
from optimizers.contract.goal import FigureName, Goal
from optimizers.contract.job import (
    CANDIDATE_DIRECTORY,
    PROGRESS_FILE,
    Built,
    JobSpec,
    JobState,
    read_result,
    write_built,
    write_spec,
)
from optimizers.contract.manifest import MODEL_FILE
from optimizers.contract.profile import Profile, Task
from optimizers.contract.quantization import DynamicInt8
from optimizers.contract.recipe import Recipe
from optimizers.contract.runtime import SessionSpec
from optimizers.judging import golden_tolerance
from tests.support import models
from tests.support.data import write_data

SIZES = (16, 64, 64, 4)


@pytest.fixture
def spec(tmp_path: Path) -> JobSpec:
    """A job over a perceptron with its own gate and calibration data."""
    model = models.perceptron(tmp_path / "net.onnx", sizes=SIZES)
    write_data(tmp_path, model)
    data = {name: tmp_path / f"{name}.npz" for name in ("gate", "calibration")}
    return JobSpec(
        id="job",
        model="net",
        version=1,
        profile=Profile(
            name="small",
            recipe=Recipe(steps=(DynamicInt8(),)),
            goal=Goal(optimize=(FigureName.SIZE,)),
        ),
        task=Task.CLASSIFICATION,
        original_file=model,
        original_name="net.onnx",
        original_sha256=file_sha256(model),
        original_session=SessionSpec(),
        data=data,
        data_sha256={name: file_sha256(path) for name, path in data.items()},
    )


def job(directory: Path, spec: JobSpec) -> Path:
    directory.mkdir()
    write_spec(directory, spec)
    return directory


def worked(directory: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "optimizers", "worker", str(directory), *arguments]
    subprocess.run(command, check=False, timeout=300, capture_output=True)


def test_data_that_had_a_part_in_building_cannot_judge(tmp_path: Path, spec: JobSpec) -> None:
    with np.load(spec.data["gate"]) as stored:
        np.savez(spec.data["calibration"], x=stored["x"][:5])
    digests = spec.data_sha256 | {"calibration": file_sha256(spec.data["calibration"])}
    directory = job(tmp_path / "job", replace(spec, data_sha256=digests))
    worked(directory, "--stage", "build")
    result = read_result(directory)
    assert result is not None
    assert result.state is JobState.FAILED
    assert "5 of the 400 items of data.gate (gate.npz)" in result.reason
    assert "data.calibration (calibration.npz)" in result.reason
    assert not (directory / CANDIDATE_DIRECTORY).exists()


def test_a_job_shows_life_before_the_tools_are_imported(tmp_path: Path, spec: JobSpec) -> None:
    directory = job(tmp_path / "job", replace(spec, original_sha256="overwritten"))
    code = (
        "import sys, optimizers.cli\n"
        "assert not {'scipy', 'onnx', 'torch'} & sys.modules.keys(), 'they take seconds'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    worked(directory)
    first = (directory / PROGRESS_FILE).read_text().splitlines()[0]
    assert '"stage":"starting"' in first


def test_what_a_step_does_not_need_is_not_imported() -> None:
    code = (
        "import sys, optimizers.building, optimizers.judging\n"
        "import optimizers.quantization.dynamic_int8\n"
        "from optimizers import techniques\n"
        "slow = {'torch', 'sqlalchemy', 'onnx_ir'}\n"
        "assert not slow & sys.modules.keys(), 'they take seconds'\n"
        "techniques.load_all()\n"
        "assert {'torch', 'optimizers.pruning.sparsify'} <= sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_memory_limit_holds_for_measuring_too(tmp_path: Path, spec: JobSpec) -> None:
    directory = job(tmp_path / "job", replace(spec, memory_limit_bytes=256 << 20))
    candidate = directory / CANDIDATE_DIRECTORY
    candidate.mkdir()
    shutil.copy(spec.original_file, candidate / MODEL_FILE)
    built = Built(recipe=Recipe(), session=SessionSpec(), records=(), built_with={})
    write_built(directory, built)
    worked(directory, "--stage", "measure")
    result = read_result(directory)
    assert result is not None
    assert result.state is JobState.FAILED, "that says nothing of the variant"
    assert result.reason == "out of memory while running measure; limit: 256 MiB"


def test_the_tolerance_of_golden_items_is_a_number_whatever_they_hold() -> None:
    outputs = np.array([[1.0, -np.inf], [np.nan, 3.0]], np.float32)
    assert golden_tolerance(outputs) == pytest.approx(0.003)
    assert 0 < golden_tolerance(np.full((2, 2), -np.inf, np.float32)) < 1e-6
    assert golden_tolerance(np.array([5])) == 0.0


MEASURE = """
import sys
from pathlib import Path
from optimizers.contract.runtime import SessionSpec
from optimizers.contract.samples import random_feeds
from optimizers.contract.signature import Signature, TensorSpec
from optimizers.evaluation.footprint import measure_footprint

spec = TensorSpec(name="x", datatype="FP32", shape=(-1, 512))
feeds = random_feeds(Signature(inputs=(spec,), outputs=()), 1)
measure_footprint(Path(sys.argv[1]), SessionSpec(), feeds)
"""


def children(process_id: int) -> list[int]:
    text = Path(f"/proc/{process_id}/task/{process_id}/children").read_text()
    return [int(child) for child in text.split()]


def test_a_process_that_weighs_a_model_ends_with_the_one_that_asked(tmp_path: Path) -> None:
    model = models.slow(tmp_path / "slow.onnx", rounds=50_000)
    asking = subprocess.Popen([sys.executable, "-c", MEASURE, str(model)])
    deadline = time.monotonic() + 60
    while not (found := children(asking.pid)) and time.monotonic() < deadline:
        assert asking.poll() is None
    [weighing] = found
    while "onnxruntime" not in Path(f"/proc/{weighing}/maps").read_text():
        assert time.monotonic() < deadline
    handle = os.pidfd_open(weighing)
    asking.kill()
    asking.wait()
    readable, _, _ = select.select([handle], [], [], 30)
    if not readable:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    os.close(handle)
    assert readable, "it outlived the process that waits for its answer"
