"""What a server does with the state it finds: held versions, ready-made variants, a full disk."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import site
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from onnxruntime.quantization import quantize_dynamic

from optimizers.contract.directory import read_variant
from optimizers.contract.host import this_host
from optimizers.contract.profile import model_policy
from server.client import Client
from server.pb import management_pb2 as management
from tests.support import models
from tests.support.calls import (
    ended,
    events,
    floats,
    jobs,
    promote,
    refusal,
    submit,
    who_answers,
)
from tests.support.data import FAST_INT8, MOMENT, policy, write_data
from tests.support.servers import Server, hone, running, serve_command
from tests.support.variants import make_variant

SIZES = (16, 256, 256, 4)
FAST = """\
  fast:
    recipe: [{dynamic_int8: {}}]
    goal: {optimize: [size], require: ["agreement >= 0.8"]}
"""
SERVED = model_policy(policy(FAST, serve="fast"), "hone.yaml").profiles["fast"]
OPTIMISER_PACKAGES = ("torch", "onnx", "onnx_ir", "onnxscript", "scipy")


async def answering(server: Server) -> tuple[str, str]:
    """Version and variant that answer when none is named."""
    async with Client(server.admin) as client:
        listed = await client.call(
            "ListModels", management.ListModelsRequest(), management.ListModelsResponse
        )
    [version] = [one for model in listed.models for one in model.versions if one.is_default]
    return str(version.version), version.active_variant


async def test_a_new_version_waits_for_its_profile_behind_the_proven_old_one(
    tmp_path: Path,
) -> None:
    folder, state = tmp_path / "models", tmp_path / "state"
    first = models.perceptron(folder / "net/1/model.onnx", sizes=SIZES)
    write_data(folder / "net/data", first)
    (folder / "net/hone.yaml").write_text(policy(FAST, serve="fast", hold=True))
    old = make_variant(
        state,
        first,
        "net",
        lambda path: models.perceptron(path, sizes=SIZES, seed=1),
        golden_inputs={"x": floats(2, SIZES[0])},
    )
    with running(folder, state, "--cpus", "2", *MOMENT) as server:
        await promote(server.admin, "net", old.manifest.variant)
        models.perceptron(folder / "net/2/model.onnx", sizes=SIZES, seed=2)
        assert hone("load", "net", admin=server.admin).returncode == 0
        assert await answering(server) == ("1", old.manifest.variant)
        listed = await jobs(server.admin)
        [other, job] = listed
        assert (other.version, job.version) == (1, 2)
        hone("jobs", "cancel", other.id, admin=server.admin)
        done = await ended(server.admin, job.id)
        assert done.state == "succeeded", done.reason
        while (await answering(server))[1] == old.manifest.variant:
            pass
        assert await answering(server) == ("2", done.variant)


async def test_a_variant_proved_elsewhere_is_measured_here_without_rebuilding_it(
    tmp_path: Path,
) -> None:
    folder, state = tmp_path / "models", tmp_path / "state"
    original = models.perceptron(folder / "net/1/model.onnx", sizes=SIZES)
    write_data(folder / "net/data", original)
    (folder / "net/hone.yaml").write_text(policy(FAST))
    foreign = make_variant(
        state,
        original,
        "net",
        lambda path: quantize_dynamic(str(original), str(path)),
        golden_inputs={"x": floats(2, SIZES[0])},
        judged_by=SERVED,
        host=replace(this_host(2), onnxruntime="1.0.0"),
    )
    with running(folder, state, "--cpus", "2", *MOMENT) as server:
        await promote(server.admin, "net", foreign.manifest.variant, unverified=True)
    with running(folder, state, "--cpus", "2", *MOMENT) as server:
        assert await answering(server) == ("1", "original")
        listed = await jobs(server.admin)
        [job] = listed
        stages = set()
        async with Client(server.admin) as client:
            async for now in client.watch_job(job.id):
                stages.add(now.stage)
        assert now.state == "succeeded", now.reason
        assert "dynamic_int8" not in stages, "it was built again"
        while (await answering(server))[1] == "original":
            pass
        assert await answering(server) == ("1", now.variant)
    measured = read_variant(state / "variants/net/1" / now.variant)
    assert measured.model_file.read_bytes() == foreign.model_file.read_bytes()


@contextlib.contextmanager
def lean_environment(directory: Path) -> Iterator[list[str]]:
    """An interpreter that finds every installed package but the optimisers'."""
    directory.mkdir()
    for folder in site.getsitepackages():
        for package in Path(folder).iterdir():
            if re.split(r"[-.]", package.name)[0] not in OPTIMISER_PACKAGES:
                (directory / package.name).symlink_to(package)
    former = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{directory}:{Path.cwd()}"
    try:
        yield [getattr(sys, "_base_executable", sys.executable)]
    finally:
        if former is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = former


async def test_without_the_optimisers_ready_made_variants_serve_and_jobs_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, state = tmp_path / "models", tmp_path / "state"
    for name in ("ready", "bare"):
        original = models.perceptron(folder / name / "1/model.onnx", sizes=SIZES)
        write_data(folder / name / "data", original)
        (folder / name / "hone.yaml").write_text(policy(FAST, serve="fast"))
    made = make_variant(
        state,
        folder / "ready/1/model.onnx",
        "ready",
        lambda path: models.perceptron(path, sizes=SIZES, seed=1),
        golden_inputs={"x": floats(2, SIZES[0])},
        judged_by=SERVED,
    )
    with lean_environment(tmp_path / "site") as [python]:
        monkeypatch.setattr(sys, "executable", python)
        absent = subprocess.run([python, "-c", "import torch"], capture_output=True, check=False)
        assert absent.returncode != 0
        with running(folder, state, "--cpus", "2") as server:
            ready = await who_answers(server.public, "ready", x=floats(1, SIZES[0]))
            bare = await who_answers(server.public, "bare", x=floats(1, SIZES[0]))
            assert (ready, bare) == (made.manifest.variant, "original")
            told = await events(server.admin, "bare")
            assert [event.kind for event in told] == ["not_built"]
            assert "pip install 'hone-server[cpu,optimize]'" in told[0].text
            request = management.SubmitJobRequest(model="bare", profile="fast")
            code, text = await refusal(server.admin, request, "SubmitJob")
            assert (code, "pip install" in text) == ("FAILED_PRECONDITION", True), text
            assert any("is not built" in line for line in server.log)
        for command in (("server", "demo"), ("optimizers", "demo")):
            done = subprocess.run(
                [python, "-m", *command, str(tmp_path / "demo")],
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 1
            assert done.stderr.startswith("hone: the optimisers are not installed here")
            assert done.stderr.count("\n") == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=300m", "tmpfs", str(disk)]
    if mount is None or os.geteuid() != 0 or subprocess.run(command, check=False).returncode != 0:
        pytest.skip("FULL DISK NOT TESTED: mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


async def test_a_full_disk_fails_the_job_and_not_the_server(
    tmp_path: Path, small_disk: Path
) -> None:
    folder = tmp_path / "models"
    original = models.perceptron(folder / "net/1/model.onnx", sizes=SIZES)
    write_data(folder / "net/data", original, calibration_items=20_000)
    (folder / "net/hone.yaml").write_text(policy(FAST))
    entropy = "recipe: [{static_int8: {calibration: entropy, samples: 20000}}]\n"
    with running(folder, small_disk / "state") as server:
        job = await submit(server.admin, "net", entropy)
        async with Client(server.admin) as client:
            async for state in client.watch_job(job.id):
                if state.stage == "static_int8":
                    break
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 16))
        done = await ended(server.admin, job.id)
        assert (done.state, "space" in done.reason) == ("failed", True), done.reason
        request = management.SubmitJobRequest(model="net", profile="fast")
        code, text = await refusal(server.admin, request, "SubmitJob")
        assert (code, "are free" in text) == ("FAILED_PRECONDITION", True), text
        assert await who_answers(server.public, "net", x=floats(1, SIZES[0]))
        filler.unlink()
        again = await submit(server.admin, "net", FAST_INT8)
        assert again.state in ("queued", "running")


async def test_a_server_that_cannot_write_its_state_says_so(tmp_path: Path) -> None:
    models.linear(tmp_path / "models/linear/1/model.onnx")
    (tmp_path / "file").write_text("not a directory")
    done = subprocess.run(
        serve_command(tmp_path / "models", tmp_path / "file/state"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
