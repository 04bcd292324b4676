"""A real server stops real builds while its requests are late, and lets them go on."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import urllib.request
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from server.client import Client
from server.pb import management_pb2 as management
from tests.support import models
from tests.support.calls import ended, events, floats, submit
from tests.support.data import FAST_INT8, MOMENT, write_data
from tests.support.processes import descendants, gone, state
from tests.support.servers import Server, running

pytestmark = pytest.mark.alone  # ends are waited for two seconds

SIZES = (16, 256, 256, 4)
ENDLESS = """\
recipe: [{static_int8: {calibration: entropy, samples: 20000}}]
goal: {optimize: [size]}
"""
SEARCH = """\
search:
  planner: false
  steps: [static_int8]
  values: {static_int8.calibration: [entropy]}
goal: {optimize: [size]}
"""
# No request is answered within a hundred nanoseconds.
POLICY = """\
task: classification
data: {calibration: data/calibration.npz, search: data/train.npz, gate: data/gate.npz}
latency_budget: 0.1 us
"""


def serving(tmp_path: Path) -> AbstractContextManager[Server]:
    return running(repository(tmp_path / "models"), tmp_path / "state", *MOMENT)


def repository(directory: Path) -> Path:
    original = models.perceptron(directory / "net/1/model.onnx", sizes=SIZES)
    write_data(directory / "net/data", original, calibration_items=20_000)
    (directory / "net/hone.yaml").write_text(POLICY)
    return directory


@contextlib.asynccontextmanager
async def load(server: Server) -> AsyncIterator[None]:
    """Ask again and again."""

    async def ask() -> None:
        async with Client(server.public) as client:
            while True:
                await client.infer("net", {"x": floats(1, SIZES[0])})
                await asyncio.sleep(0.05)

    asking = asyncio.create_task(ask())
    try:
        yield
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


def at_work(server: Server) -> list[int]:
    """The processes that work on jobs; the first below the server supervises them."""
    return descendants(server.process.pid)[1:]


async def stopped(server: Server) -> list[int]:
    """Wait until all that works on a job is stopped."""
    async with asyncio.timeout(30):
        while True:
            workers = at_work(server)
            if workers and all(state(worker) == "T" for worker in workers):
                return workers
            await asyncio.sleep(0.05)


def metric(server: Server, name: str) -> float:
    with urllib.request.urlopen(server.metrics) as page:
        lines = page.read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


async def newest(server: Server, job: str) -> management.Job:
    async with Client(server.admin) as client:
        return await anext(client.watch_job(job))


@pytest.mark.timeout(400)  # its worker imports torch at the lowest priority
async def test_a_build_stands_still_while_requests_are_late_and_succeeds_after_it(
    tmp_path: Path,
) -> None:
    with serving(tmp_path) as server:
        assert metric(server, "hone_job_paused_seconds_total") == 0
        async with load(server):
            job = await submit(server.admin, "net", FAST_INT8)
            workers = await stopped(server)
            supervisor = descendants(server.process.pid)[0]
            assert state(supervisor) != "T"
            paused = await newest(server, job.id)
            assert (paused.state, paused.stage) == ("running", "paused")
            assert "requests of the last 3 s took longer than the latency budget" in paused.text
            async with asyncio.timeout(10):
                while metric(server, "hone_job_paused_seconds_total") < 0.5:
                    await asyncio.sleep(0.1)
            assert metric(server, "hone_jobs_paused") == 1
            assert {state(worker) for worker in workers} == {"T"}
        done = await ended(server.admin, job.id)
        assert done.state == "succeeded", done.reason
        assert metric(server, "hone_jobs_paused") == 0
        kinds = [event.kind for event in await events(server.admin, "net")]
        assert kinds.count("jobs_paused") == kinds.count("jobs_resumed") == 1
        [resumed] = [one for one in await events(server.admin) if one.kind == "jobs_resumed"]
        assert "no model was late for 5 s" in resumed.text


@pytest.mark.parametrize("profile", [ENDLESS, SEARCH], ids=["build", "search"])
async def test_a_paused_job_is_cancelled_at_once_and_dies_with_its_server(
    profile: str, tmp_path: Path
) -> None:
    with serving(tmp_path) as server:
        async with load(server):
            job = await submit(server.admin, "net", profile)
            workers = await stopped(server)
            async with Client(server.admin) as client:
                request = management.CancelJobRequest(id=job.id)
                async with asyncio.timeout(2):
                    cancelled = await client.call("CancelJob", request, management.Job)
            assert cancelled.state == "cancelled"
            await gone(workers, 2)
            await submit(server.admin, "net", profile)
            workers = [*await stopped(server), descendants(server.process.pid)[0]]
            await asyncio.to_thread(server.stop, signal.SIGKILL)
            await gone(workers, 5)


async def test_without_a_budget_no_job_is_paused(tmp_path: Path) -> None:
    folder = repository(tmp_path / "models")
    policy = (folder / "net/hone.yaml").read_text()
    (folder / "net/hone.yaml").write_text(policy.replace("latency_budget: 0.1 us", ""))
    with running(folder, tmp_path / "state", *MOMENT) as server:
        async with load(server):
            job = await submit(server.admin, "net", FAST_INT8)
            assert (await ended(server.admin, job.id)).state == "succeeded"
        assert metric(server, "hone_job_paused_seconds_total") == 0
