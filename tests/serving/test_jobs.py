"""Jobs in real workers: built, judged, cancelled, killed, interrupted, found again."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from server.client import CallFailed, Client
from server.pb import management_pb2 as management
from tests.support import models
from tests.support.calls import (
    ended,
    events,
    floats,
    jobs,
    refusal,
    submit,
    variants,
    who_answers,
)
from tests.support.data import FAST_INT8, MOMENT, policy, write_data
from tests.support.servers import Server, hone, running
from tests.support.traffic import relayed

SIZES = (16, 256, 256, 4)
# Calibrating by entropy on many items keeps a worker busy until somebody ends it.
ENDLESS = """\
recipe: [{static_int8: {calibration: entropy, samples: 20000}}]
goal: {optimize: [size]}
"""
FAST_PROFILE = """\
  fast:
    recipe: [{dynamic_int8: {}}]
    goal: {optimize: [size], require: ["agreement >= 0.8"]}
"""


def repository(directory: Path, *, profiles: str = FAST_PROFILE, serve: str = "") -> Path:
    original = models.perceptron(directory / "net/1/model.onnx", sizes=SIZES)
    write_data(directory / "net/data", original, calibration_items=20_000)
    (directory / "net/hone.yaml").write_text(policy(profiles, serve=serve))
    return directory


async def start_endless(server: Server) -> management.Job:
    """Submit a job and wait until its worker has begun with what takes long."""
    job = await submit(server.admin, "net", ENDLESS)
    async with Client(server.admin) as client:
        async for state in client.watch_job(job.id):
            if state.stage == "static_int8":
                return state
    raise AssertionError(f"the job ended too early: {state.state}: {state.reason}")


def workers_of(server: int) -> list[int]:
    """Processes below a server, found by their parents."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                parents[int(folder.name)] = int(fields[1])
    found, waiting = [], [server]
    while waiting:
        parent = waiting.pop()
        children = [child for child, above in parents.items() if above == parent]
        found += children
        waiting += children
    return found


async def still_serves(server: Server) -> None:
    assert await who_answers(server.public, "net", x=floats(1, SIZES[0]))


async def gone(processes: list[int]) -> None:
    """Wait until every process has ended."""
    deadline = asyncio.get_running_loop().time() + 30
    while any(Path(f"/proc/{process}").exists() for process in processes):
        assert asyncio.get_running_loop().time() < deadline, "a worker outlived its server"
        await asyncio.sleep(0.05)


@pytest.mark.alone  # times are measured
async def test_serve_profile_builds_proves_and_promotes_and_is_there_after_a_restart(
    tmp_path: Path,
) -> None:
    folder = repository(tmp_path / "models", serve="fast")
    with running(folder, tmp_path / "state") as server:
        listed = await jobs(server.admin)
        [job] = listed
        done = await ended(server.admin, job.id)
        assert (done.state, done.reason) == ("succeeded", "")
        for _ in range(100):
            made = [one for one in await variants(server.admin, "net") if one.active]
            if made[0].id == done.variant:
                break
            await asyncio.sleep(0.1)
        [variant] = made
        assert (variant.id, variant.verdict) == (done.variant, "proved")
        assert {"size", "agreement", "accuracy", "latency_p50", "throughput", "memory"} <= {
            figure.name for figure in variant.figures
        }
        size = next(figure for figure in variant.figures if figure.name == "size")
        assert size.ratio.value < 0.5
    with running(folder, tmp_path / "state") as server:
        answered = await who_answers(server.public, "net", x=floats(1, SIZES[0]))
        assert answered == done.variant
        again = hone("optimize", "net", "--profile", "fast", "--wait", admin=server.admin)
        assert again.returncode == 0
        assert f"job {job.id} is the same job" in again.stdout
        # A roll-back is the operator's word: a restart does not overrule it.
        assert hone("rollback", "net", admin=server.admin).returncode == 0
    with running(folder, tmp_path / "state") as server:
        answered = await who_answers(server.public, "net", x=floats(1, SIZES[0]))
        assert answered == "original"
        removed = hone("variants", "rm", "net", done.variant, admin=server.admin)
        assert removed.returncode == 0, removed.stderr
        assert [one.id for one in await variants(server.admin, "net")] == ["original"]
        assert hone("jobs", "rm", job.id, admin=server.admin).returncode == 0
    assert not list((tmp_path / "state/jobs").iterdir())


async def test_a_killed_worker_leaves_the_server_serving_and_a_failed_job(tmp_path: Path) -> None:
    with running(repository(tmp_path / "models"), tmp_path / "state") as server:
        job = await start_endless(server)
        processes = workers_of(server.process.pid)
        assert len(processes) >= 2
        os.kill(processes[0], signal.SIGKILL)
        done = await ended(server.admin, job.id)
        assert (done.state, "SIGKILL" in done.reason) == ("failed", True), done.reason
        await gone(processes)
        await still_serves(server)
        # The same work may be tried again.
        assert (await start_endless(server)).id == job.id
        building = workers_of(server.process.pid)[-1]
        os.kill(building, signal.SIGSEGV)
        done = await ended(server.admin, job.id)
        assert (done.state, "stage build was ended by SIGSEGV" in done.reason) == ("failed", True)
        await still_serves(server)


async def test_who_watches_a_job_does_so_over_a_connection_that_breaks(tmp_path: Path) -> None:
    with running(repository(tmp_path / "models"), tmp_path / "state") as server:
        job = await start_endless(server)
        async with relayed(server.admin) as traffic, Client(traffic.address) as client:
            watching = client.watch_job(job.id)
            assert (await anext(watching)).state == "running"
            await traffic.cut()
            while (now := await anext(watching)).stage != "static_int8":
                pass
            assert now.id == job.id
            server.process.kill()
            with pytest.raises(CallFailed):
                _ = [now async for now in watching]


async def test_cancelling_ends_the_worker_and_the_next_job_starts(tmp_path: Path) -> None:
    with running(repository(tmp_path / "models"), tmp_path / "state") as server:
        job = await start_endless(server)
        queued = await submit(server.admin, "net", FAST_INT8)
        assert (queued.state, queued.position) == ("queued", 1)
        processes = workers_of(server.process.pid)
        cancelled = hone("jobs", "cancel", job.id, admin=server.admin)
        assert "cancelled" in cancelled.stdout
        await gone(processes)
        async with Client(server.admin) as client:
            async for state in client.watch_job(queued.id):
                if state.state == "running":
                    break
            assert state.state == "running"
            request = management.CancelJobRequest(id=queued.id)
            assert (await client.call("CancelJob", request, management.Job)).state == "cancelled"


@pytest.mark.alone  # a worker that is kept from working looks as if it hung
async def test_a_hanging_worker_is_ended(tmp_path: Path) -> None:
    folder = repository(tmp_path / "models")
    # Longer than a busy machine takes to import torch and onnx, which nothing is reported of.
    with running(folder, tmp_path / "state", "--job-stall-seconds", "12") as server:
        job = await start_endless(server)
        for process in workers_of(server.process.pid):
            os.kill(process, signal.SIGSTOP)
        done = await ended(server.admin, job.id)
        assert (done.state, "reported nothing for 12 s" in done.reason) == ("failed", True)
        await still_serves(server)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_workers_die_with_the_server_and_the_job_is_found_interrupted(
    tmp_path: Path, number: int
) -> None:
    folder = repository(tmp_path / "models")
    with running(folder, tmp_path / "state") as server:
        job = await start_endless(server)
        processes = workers_of(server.process.pid)
        await asyncio.to_thread(server.stop, number)
        await gone(processes)
    with running(folder, tmp_path / "state") as server:
        listed = await jobs(server.admin)
        assert [(one.id, one.state) for one in listed] == [(job.id, "interrupted")]
        assert "submit it again" in listed[0].reason
        assert "job_interrupted" in [event.kind for event in await events(server.admin)]
        assert (await start_endless(server)).id == job.id


async def test_what_cannot_be_built_is_refused_with_the_reason(tmp_path: Path) -> None:
    folder = repository(tmp_path / "models")
    with running(folder, tmp_path / "state") as server:
        for text, code, part in (
            ("recipe: [{dynamic_int9: {}}]\n", "INVALID_ARGUMENT", "did you mean 'dynamic_int8'?"),
            ("recipe: [{dynamic_int8: {per_chanel: true}}]\n", "INVALID_ARGUMENT", "per_channel"),
            (
                'recipe: [{dynamic_int8: {}}]\ngoal: {require: ["latency < 3"]}\n',
                "INVALID_ARGUMENT",
                "was not understood",
            ),
        ):
            request = management.SubmitJobRequest(model="net", profile="w", profile_text=text)
            found, said = await refusal(server.admin, request, "SubmitJob")
            assert (found, part in said) == (code, True), said
        for teacher, code, part in (
            ("m.onnx", "FAILED_PRECONDITION", "names the model m.onnx, which is missing"),
            ("../m.onnx", "INVALID_ARGUMENT", "expected a path below the directory of the file"),
        ):
            text = f"recipe: [{{distill: {{teacher: {teacher}}}}}]\n"
            request = management.SubmitJobRequest(model="net", profile="w", profile_text=text)
            found, said = await refusal(server.admin, request, "SubmitJob")
            assert (found, part in said) == (code, True), said
        (folder / "net/data/gate.npz").unlink()
        request = management.SubmitJobRequest(model="net", profile="fast")
        found, said = await refusal(server.admin, request, "SubmitJob")
        assert (found, "data/gate.npz, which is missing" in said) == ("FAILED_PRECONDITION", True)


async def test_a_memory_limit_ends_the_job_and_not_the_server(tmp_path: Path) -> None:
    folder = repository(tmp_path / "models")
    with running(folder, tmp_path / "state", "--job-memory-bytes", str(256 << 20)) as server:
        job = await submit(server.admin, "net", FAST_INT8)
        done = await ended(server.admin, job.id)
        assert done.state == "failed"
        assert done.reason
        await still_serves(server)


async def test_without_declared_data_nothing_is_promoted_by_itself(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    models.perceptron(folder / "net/1/model.onnx", sizes=SIZES)
    (folder / "net/hone.yaml").write_text(f"serve: fast\nprofiles:\n{FAST_PROFILE}")
    with running(folder, tmp_path / "state", *MOMENT) as server:
        listed = await jobs(server.admin)
        done = await ended(server.admin, listed[0].id)
        assert (done.state, "fidelity is not judged" in done.reason) == ("succeeded", True)
        listed_variants = {one.id: one for one in await variants(server.admin, "net")}
        assert listed_variants["original"].active
        assert listed_variants[done.variant].verdict == "not judged"
        refused = hone("promote", "net", "fast", admin=server.admin)
        assert refused.returncode == 1
        assert "--unverified" in refused.stderr
