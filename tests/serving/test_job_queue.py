"""The queue of jobs: who waits, who works, how they end; with workers of a few lines."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from optimizers.contract.job import JobSpec, JobState, write_spec
from optimizers.contract.profile import Profile, Task
from optimizers.contract.quantization import DynamicInt8
from optimizers.contract.recipe import Recipe
from optimizers.contract.runtime import SessionSpec
from server.errors import FailedPrecondition, UnknownJob
from server.jobs import Job, Jobs
from tests.support.workers import ENDLESS, REPORT, result, until, worker

SUCCEED = result(JobState.SUCCEEDED)


def specification(identity: str = "a1", *, submitted_unix_s: float = 0.0) -> JobSpec:
    return JobSpec(
        id=identity,
        model="net",
        version=1,
        profile=Profile(name="fast", recipe=Recipe(steps=(DynamicInt8(),))),
        task=Task.OTHER,
        original_file=Path("/nowhere/model.onnx"),
        original_name="1/model.onnx",
        original_sha256="0" * 64,
        original_session=SessionSpec(),
        submitted_unix_s=submitted_unix_s,
    )


async def ignore(job: Job) -> None:
    """What follows from an end where a test does not care."""


@contextlib.asynccontextmanager
async def queue(
    directory: Path,
    script: str,
    *,
    on_end: Callable[[Job], Awaitable[None]] = ignore,
    stall_timeout_s: float = 30.0,
) -> AsyncIterator[Jobs]:
    jobs = Jobs(
        directory,
        parallel=1,
        stall_timeout_s=stall_timeout_s,
        on_end=on_end,
        worker=worker(script),
    )
    jobs.recover()
    try:
        yield jobs
    finally:
        await jobs.close()


async def ended(jobs: Jobs, identity: str) -> Job:
    async with asyncio.timeout(30):
        return [job async for job in jobs.watch(identity)][-1]


async def test_a_job_taken_up_again_is_not_silent_since_its_former_worker(tmp_path: Path) -> None:
    first = f"{REPORT}; touch -d '1 hour ago' $1/progress.jsonl; touch $1/again $1/built.json"
    awaiting = result(JobState.AWAITING_MEASUREMENT)
    script = f"if [ -e $1/again ]; then sleep 1.3; {SUCCEED}; else {first}; {awaiting}; fi"
    async with queue(tmp_path, script) as jobs:
        await jobs.submit(specification())
        assert (await ended(jobs, "a1")).state is JobState.AWAITING_MEASUREMENT
        _, existed = await jobs.submit(specification())
        assert not existed
        done = await ended(jobs, "a1")
        assert done.state is JobState.SUCCEEDED, done.result


async def test_a_silent_worker_is_ended(tmp_path: Path) -> None:
    async with queue(tmp_path, f"{REPORT}; {ENDLESS}", stall_timeout_s=0.4) as jobs:
        await jobs.submit(specification())
        done = await ended(jobs, "a1")
        assert done.state is JobState.FAILED
        assert done.result is not None
        assert "the worker reported nothing for" in done.result.reason


async def test_a_worker_that_reports_lives_longer_than_the_timeout_and_costs_no_more_tasks(
    tmp_path: Path,
) -> None:
    script = f"for i in $(seq 13); do {REPORT}; echo $i > $1/round; sleep 0.25; done; {SUCCEED}"
    async with queue(tmp_path, script, stall_timeout_s=2.0) as jobs:
        await jobs.submit(specification())

        def rounds() -> int:
            file = tmp_path / "a1/round"
            return int(file.read_text() or 0) if file.exists() else 0

        await until(lambda: rounds() >= 2)
        tasks = len(asyncio.all_tasks())
        await until(lambda: rounds() >= 12)
        assert len(asyncio.all_tasks()) == tasks
        done = await ended(jobs, "a1")
        assert done.state is JobState.SUCCEEDED, done.result


async def test_cancelling_a_job_before_its_first_step_makes_room_for_the_next(
    tmp_path: Path,
) -> None:
    async with queue(tmp_path, f"touch $1/started; {SUCCEED}") as jobs:
        await jobs.submit(specification("a1"))
        following = asyncio.create_task(jobs.submit(specification("b2")))
        cancelled = await jobs.cancel("a1")  # before the loop has had a turn
        assert cancelled.state is JobState.CANCELLED
        assert not (tmp_path / "a1/started").exists()
        await following
        assert (await ended(jobs, "b2")).state is JobState.SUCCEEDED


async def test_cancelling_ends_every_process_of_the_worker_and_is_told_of_once(
    tmp_path: Path,
) -> None:
    told: list[tuple[str, JobState]] = []

    async def on_end(job: Job) -> None:
        told.append((job.spec.id, job.state))

    script = f"({ENDLESS}) & echo $! > $1/child; wait"
    async with queue(tmp_path, script, on_end=on_end) as jobs:
        await jobs.submit(specification("a1"))
        await jobs.submit(specification("b2"))
        assert (await jobs.cancel("b2")).state is JobState.CANCELLED
        child = tmp_path / "a1/child"
        await until(lambda: child.exists() and child.read_text())
        cancelled = await asyncio.gather(jobs.cancel("a1"), jobs.cancel("a1"))
        assert [job.state for job in cancelled] == [JobState.CANCELLED] * 2
        process = Path(f"/proc/{child.read_text().strip()}/stat")
        await until(lambda: not process.exists() or " Z " in process.read_text())
    assert told == [("b2", JobState.CANCELLED), ("a1", JobState.CANCELLED)]


async def test_what_fails_after_an_end_is_logged_and_the_queue_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(job: Job) -> None:
        raise KeyError("gone")

    async with queue(tmp_path, SUCCEED, on_end=fail) as jobs:
        await jobs.submit(specification("a1"))
        await jobs.submit(specification("b2"))
        assert (await ended(jobs, "b2")).state is JobState.SUCCEEDED
    errors = [record for record in caplog.records if record.name == "server.jobs"]
    assert ["a1" in errors[0].getMessage(), "b2" in errors[1].getMessage()] == [True, True]
    assert all("KeyError: 'gone'" in str(record.exc_text) for record in errors)


async def test_a_result_that_cannot_be_read_is_a_failed_job(tmp_path: Path) -> None:
    told: list[JobState] = []

    async def on_end(job: Job) -> None:
        told.append(job.state)

    async with queue(tmp_path, "echo '{' > $1/result.json", on_end=on_end) as jobs:
        await jobs.submit(specification("a1"))
        await jobs.submit(specification("b2"))
        for identity in ("a1", "b2"):
            done = await ended(jobs, identity)
            assert done.state is JobState.FAILED
            assert done.result is not None
            assert "result.json cannot be read" in done.result.reason
        _, existed = await jobs.submit(specification("a1"))
        assert not existed
    assert told[:2] == [JobState.FAILED, JobState.FAILED]


async def test_close_and_remove_wait_for_what_follows_from_an_end(tmp_path: Path) -> None:
    goes_on = asyncio.Event()
    told: list[str] = []

    async def on_end(job: Job) -> None:
        await goes_on.wait()
        assert (tmp_path / job.spec.id).is_dir()
        told.append(job.spec.id)

    async with queue(tmp_path, SUCCEED, on_end=on_end) as jobs:
        await jobs.submit(specification("a1"))
        await jobs.submit(specification("b2"))
        while not jobs.get("b2").has_ended:
            await asyncio.sleep(0.01)
        watching = asyncio.create_task(ended(jobs, "b2"))
        removing = asyncio.create_task(jobs.remove("a1"))
        closing = asyncio.create_task(jobs.close())
        await asyncio.wait((watching, removing, closing), timeout=0.5)
        assert not watching.done()
        assert not removing.done()
        assert not closing.done()
        goes_on.set()
        await watching
        await asyncio.gather(removing, closing)
        assert sorted(told) == ["a1", "b2"]
        assert [job.spec.id for job in jobs.all()] == ["b2"]
        with pytest.raises(FailedPrecondition, match="stopping"):
            await jobs.submit(specification("c3"))


async def test_the_loop_goes_on_while_a_job_is_written_and_knows_it_only_when_it_is_whole(
    tmp_path: Path,
) -> None:
    begun, done = threading.Event(), threading.Event()

    def prepare(path: Path) -> None:
        begun.set()
        assert done.wait(10), "nobody but the disk was attended to"

    async with queue(tmp_path, SUCCEED) as jobs:
        submitting = asyncio.create_task(jobs.submit(specification(), prepare))
        await until(begun.is_set)
        assert (jobs.all(), jobs.find("a1")) == ([], None)
        done.set()
        assert await submitting == (jobs.get("a1"), False)
        await ended(jobs, "a1")


async def test_nothing_is_left_of_a_job_that_cannot_be_written(tmp_path: Path) -> None:
    def prepare(path: Path) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    async with queue(tmp_path, SUCCEED) as jobs:
        with pytest.raises(OSError, match="no space left"):
            await jobs.submit(specification(), prepare)
        assert (jobs.all(), list(tmp_path.iterdir())) == ([], [])


async def test_a_removed_job_is_out_of_sight_at_once_and_can_be_submitted_again(
    tmp_path: Path,
) -> None:
    async with queue(tmp_path, SUCCEED) as jobs:
        await jobs.submit(specification())
        await ended(jobs, "a1")
        (tmp_path / "a1/old").touch()
        removing = asyncio.create_task(jobs.remove("a1"))
        await until(lambda: jobs.find("a1") is None)
        _, existed = await jobs.submit(specification())
        assert not existed
        await removing
        assert (await ended(jobs, "a1")).state is JobState.SUCCEEDED
        assert [path.name for path in tmp_path.iterdir()] == ["a1"]
        assert not (tmp_path / "a1/old").exists()
        with pytest.raises(UnknownJob):
            await jobs.remove("b2")


async def test_what_awaits_measurement_is_kept_unless_it_is_to_be_searched_for_anew(
    tmp_path: Path,
) -> None:
    async with queue(tmp_path, result(JobState.AWAITING_MEASUREMENT)) as jobs:
        await jobs.submit(specification())
        await ended(jobs, "a1")
        (tmp_path / "a1/built.json").touch()
        await jobs.submit(specification())
        await ended(jobs, "a1")
        assert (tmp_path / "a1/built.json").exists()
        await jobs.submit(replace(specification(), resume=True), anew=True)
        await ended(jobs, "a1")
        assert not (tmp_path / "a1/built.json").exists()


async def test_no_id_of_a_job_leads_elsewhere(tmp_path: Path) -> None:
    async with queue(tmp_path / "jobs", SUCCEED) as jobs:
        (tmp_path / "b2").mkdir()
        for name in ("../b2", "/etc", ".", "", "a" * 65, "a" * 100_000, "a\0", "²"):
            with pytest.raises(UnknownJob):
                jobs.get(name)


async def test_a_failed_job_is_tried_again_in_a_fresh_directory(tmp_path: Path) -> None:
    async with queue(tmp_path, "[ -e $1/old ]; touch $1/old; exit 3") as jobs:
        for _ in range(2):
            _, existed = await jobs.submit(specification())
            assert not existed
            done = await ended(jobs, "a1")
            assert done.result is not None
            assert done.result.reason == "the worker ended with status 3 and said nothing"
    assert [path.name for path in tmp_path.iterdir()] == ["a1"]


async def test_the_next_server_finds_the_interrupted_and_sweeps_what_was_being_deleted(
    tmp_path: Path,
) -> None:
    async with queue(tmp_path, ENDLESS) as jobs:
        await jobs.submit(specification("a1"))
        await jobs.submit(specification("b2"))
    for name in (".c3.1.removed", "d4"):
        (tmp_path / name).mkdir()
    write_spec(tmp_path / ".c3.1.removed", specification("c3"))
    async with queue(tmp_path, ENDLESS) as jobs:
        assert [job.state for job in jobs.all()] == [JobState.INTERRUPTED] * 2
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a1", "b2"]


async def test_a_job_that_has_ended_is_read_once(tmp_path: Path) -> None:
    async with queue(tmp_path, "exit 3") as jobs:
        await jobs.submit(specification("b2", submitted_unix_s=2))
        await jobs.submit(specification("a1", submitted_unix_s=1))
        for identity in ("b2", "a1"):
            await ended(jobs, identity)
        before = jobs.all()
        assert [job.spec.id for job in before] == ["a1", "b2"]
        assert [id(job) for job in jobs.all()] == [id(job) for job in before]
        again, _ = await jobs.submit(specification("a1", submitted_unix_s=3))
        assert not again.has_ended
        assert (await ended(jobs, "a1")).spec.submitted_unix_s == 3
        assert [job.spec.id for job in jobs.all()] == ["b2", "a1"]
        await jobs.remove("b2")
        assert [job.spec.id for job in jobs.all()] == ["a1"]
