"""Jobs: worker processes over job directories. Queues, watches, cancels and recovers them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from optimizers.contract.errors import HoneError
from optimizers.contract.job import (
    LOG_FILE,
    PROGRESS_FILE,
    JobResult,
    JobSpec,
    JobState,
    Progress,
    last_progress,
    read_result,
    read_spec,
    write_result,
    write_spec,
)
from server.errors import FailedPrecondition, UnknownJob

_LOOK_EVERY_S: Final = 0.2
_FULL_BELOW_BYTES: Final = 1 << 20
_RESUBMITTABLE: Final = {
    JobState.FAILED,
    JobState.CANCELLED,
    JobState.INTERRUPTED,
    JobState.AWAITING_MEASUREMENT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as it stands now.

    Attributes:
        spec: What was asked for.
        state: Where it stands.
        progress: The worker's newest line, if any.
        result: How it ended, if it has.
        position: Place in the queue, counted from 1; 0 when it is not queued.
    """

    spec: JobSpec
    state: JobState
    progress: Progress | None
    result: JobResult | None
    position: int = 0

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen to it by itself."""
        return self.state not in (JobState.QUEUED, JobState.RUNNING)


class Jobs:
    """The job directories below one folder and the workers that run on them.

    Lives on one event loop. A job's truth is its directory; what is held here besides is which
    of them have a worker or wait for one.
    """

    def __init__(
        self,
        directory: Path,
        *,
        parallel: int,
        stall_timeout_s: float,
        on_end: Callable[[Job], Awaitable[None]],
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """Watch over `directory`.

        Args:
            directory: One folder a job.
            parallel: Workers at once, at least 1.
            stall_timeout_s: A worker that reports nothing for longer is ended.
            on_end: Called once for each job that ends while this object lives.
            on_change: Called whenever a job's state may have changed.
        """
        self._directory = directory
        self._parallel = parallel
        self._stall_timeout_s = stall_timeout_s
        self._on_end = on_end
        self._on_change = on_change
        self._queue: list[str] = []
        self._running: dict[str, asyncio.Task[None]] = {}
        self._unwritten: dict[str, JobResult] = {}
        self._closing = False

    def recover(self) -> list[Job]:
        """Mark what a former server left unfinished; call once, before the first submit.

        Returns:
            The jobs that were interrupted.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        interrupted = []
        for job in self.all():
            if job.result is None:
                reason = "the server stopped while this job was waiting or running; submit it again"
                self._write_end(job.spec.id, JobState.INTERRUPTED, reason)
                interrupted.append(self.get(job.spec.id))
        for stray in self._directory.iterdir():
            if not (stray / "spec.json").exists():
                shutil.rmtree(stray, ignore_errors=True)
        self._on_change()
        return interrupted

    def find(self, job_id: str) -> Job | None:
        """The job of that id, if its directory is there and can be read."""
        with contextlib.suppress(HoneError):
            return self.get(job_id)
        return None

    def submit(
        self, spec: JobSpec, prepare: Callable[[Path], None] = lambda directory: None
    ) -> tuple[Job, bool]:
        """Queue a job unless the same one exists and succeeded, was refused, or is under way.

        Args:
            spec: What to build.
            prepare: Called with the job's directory before a worker sees it.

        Returns:
            The job, and whether it existed already.
        """
        directory = self._path(spec.id)
        if directory.exists():
            job = self.get(spec.id)
            if not can_be_resubmitted(job.state):
                return job, True
            if job.state is JobState.AWAITING_MEASUREMENT:
                (directory / "result.json").unlink()
            else:
                shutil.rmtree(directory)
        self._unwritten.pop(spec.id, None)
        directory.mkdir(parents=True, exist_ok=True)
        prepare(directory)
        write_spec(directory, spec)
        self._queue.append(spec.id)
        self._start_next()
        return self.get(spec.id), False

    def all(self) -> list[Job]:
        """Every job whose directory can be read, oldest first."""
        jobs = []
        for directory in self._directory.iterdir():
            with contextlib.suppress(HoneError):
                jobs.append(self.get(directory.name))
        return sorted(jobs, key=lambda job: job.spec.submitted_unix_s)

    def get(self, job_id: str) -> Job:
        """One job.

        Raises:
            UnknownJob: There is none of that id.
        """
        directory = self._path(job_id)
        if not directory.is_dir():
            raise UnknownJob(job_id)
        spec = read_spec(directory)
        result = read_result(directory) or self._unwritten.get(job_id)
        if result is not None and job_id not in self._running:
            state = result.state
        else:
            state = JobState.RUNNING if job_id in self._running else JobState.QUEUED
            result = None
        position = self._queue.index(job_id) + 1 if job_id in self._queue else 0
        return Job(
            spec=spec,
            state=state,
            progress=last_progress(directory),
            result=result,
            position=position,
        )

    async def watch(self, job_id: str) -> AsyncIterator[Job]:
        """The job now and after each change, until it has ended."""
        seen: Job | None = None
        while True:
            job = self.get(job_id)
            if job != seen:
                yield job
                seen = job
            if job.has_ended:
                return
            await asyncio.sleep(_LOOK_EVERY_S)

    async def cancel(self, job_id: str) -> Job:
        """End a job that waits or runs; a job that has ended stays as it is."""
        job = self.get(job_id)
        if job_id in self._queue:
            self._queue.remove(job_id)
            self._write_end(job_id, JobState.CANCELLED, "cancelled before it started")
            self._on_change()
        elif job_id in self._running:
            self._running[job_id].cancel()
            await asyncio.wait([self._running[job_id]])
        else:
            return job
        return self.get(job_id)

    def remove(self, job_id: str) -> None:
        """Delete an ended job's directory.

        Raises:
            FailedPrecondition: It has not ended.
        """
        job = self.get(job_id)
        if not job.has_ended:
            raise FailedPrecondition(f"job {job_id} is {job.state}; cancel it first")
        shutil.rmtree(self._path(job_id))
        self._unwritten.pop(job_id, None)
        self._on_change()

    async def close(self) -> None:
        """End every worker; what was under way is found as interrupted by the next server."""
        self._closing = True
        self._queue.clear()
        running = list(self._running.values())
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    def _path(self, job_id: str) -> Path:
        if not job_id.isalnum():
            raise UnknownJob(job_id)
        return self._directory / job_id

    def _start_next(self) -> None:
        while self._queue and len(self._running) < self._parallel and not self._closing:
            job_id = self._queue.pop(0)
            self._running[job_id] = asyncio.create_task(self._run(job_id), name=f"job {job_id}")
        self._on_change()

    async def _run(self, job_id: str) -> None:
        directory = self._path(job_id)
        try:
            await self._work(directory)
        except asyncio.CancelledError:
            if not self._closing:
                self._write_end(job_id, JobState.CANCELLED, "cancelled")
        except OSError as error:
            self._write_end(job_id, JobState.FAILED, f"no worker could be started: {error}")
        finally:
            self._running.pop(job_id, None)
            if not self._closing:
                self._start_next()
                await self._on_end(self.get(job_id))

    async def _work(self, directory: Path) -> None:
        """Run one worker to its end and make sure that a result is there."""
        with (directory / LOG_FILE).open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "optimizers",
                "worker",
                str(directory),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "HONE_WORKER_PARENT": str(os.getpid())},
            )
        stalled = False
        try:
            while True:
                try:
                    await asyncio.wait_for(asyncio.shield(process.wait()), timeout=1.0)
                    break
                except TimeoutError:
                    if _silent_for_s(directory) > self._stall_timeout_s:
                        stalled = True
                        _kill_group(process.pid)
        finally:
            _kill_group(process.pid)
            await process.wait()
        if read_result(directory) is None:
            reason = _why(process.returncode, directory)
            if stalled:
                reason = f"the worker reported nothing for {self._stall_timeout_s:.0f} s"
            self._write_end(directory.name, JobState.FAILED, reason)

    def _write_end(self, job_id: str, state: JobState, reason: str) -> None:
        result = JobResult(state=state, reason=reason, finished_unix_s=time.time())
        try:
            write_result(self._path(job_id), result)
        except OSError:  # a full disk must not leave a job that seems to wait
            self._unwritten[job_id] = result


def can_be_resubmitted(state: JobState) -> bool:
    """Whether the same work may be tried again."""
    return state in _RESUBMITTABLE


def _silent_for_s(directory: Path) -> float:
    for name in (PROGRESS_FILE, "spec.json"):
        with contextlib.suppress(OSError):
            return time.time() - (directory / name).stat().st_mtime
    return 0.0


def _kill_group(process_id: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process_id, signal.SIGKILL)


def _why(return_code: int | None, directory: Path) -> str:
    if return_code is not None and return_code < 0:
        name = signal.Signals(-return_code).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"the worker was ended by {name}{hint}"
    if shutil.disk_usage(directory).free < _FULL_BELOW_BYTES:
        return "no space was left on the state directory's disk"
    with contextlib.suppress(OSError):
        lines = (directory / LOG_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        if last:
            return f"the worker ended with status {return_code}: {last[:300]}"
    return f"the worker ended with status {return_code} and said nothing"
