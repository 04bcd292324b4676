"""Jobs: which wait, which have a worker, and how they end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from optimizers.contract.errors import HoneError
from optimizers.contract.job import JobResult, JobSpec, JobState, Progress
from server.errors import FailedPrecondition
from server.job_directories import JobDirectories, delete
from server.job_search import SearchReader, SearchState
from server.job_worker import WORKER, run_worker

_log = logging.getLogger(__name__)

_LOOK_EVERY_S: Final = 0.2
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
        search: What its search shows, told to those who watch only; None without one.
    """

    spec: JobSpec
    state: JobState
    progress: Progress | None
    result: JobResult | None
    position: int = 0
    search: SearchState | None = None

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen to it by itself."""
        return self.state not in (JobState.QUEUED, JobState.RUNNING)


def build_afresh(directory: Path) -> None:
    """Leave everything in a job's directory to its worker."""


class Jobs:
    """The queue of jobs and the workers on them.

    Lives on one event loop. A job's truth is its directory; what is held here besides is which
    of them have a worker or wait for one, and what was read of those that have ended.
    """

    def __init__(
        self,
        directory: Path,
        *,
        parallel: int,
        stall_timeout_s: float,
        on_end: Callable[[Job], Awaitable[None]],
        on_change: Callable[[], None] = lambda: None,
        worker: Sequence[str] = WORKER,
    ) -> None:
        """Watch over `directory`.

        Args:
            directory: One folder a job.
            parallel: Workers at once, at least 1.
            stall_timeout_s: A worker that reports nothing for longer is ended.
            on_end: Called once for each job that ends while this object lives; what it raises
                is logged. It must not wait for `cancel`, `remove` or `close`.
            on_change: Called whenever a job's state may have changed; what it raises is logged.
            worker: The command that works on the job directory given as its last argument.
        """
        self._directories = JobDirectories(directory)
        self._parallel = parallel
        self._stall_timeout_s = stall_timeout_s
        self._on_end = on_end
        self._on_change = on_change
        self._worker = worker
        self._queue: list[str] = []
        self._running: dict[str, asyncio.Event] = {}
        self._tasks: dict[asyncio.Task[None], str] = {}
        self._ended: dict[str, Job] = {}
        self._pause = ""
        self._closing = False

    def recover(self) -> list[Job]:
        """Mark what a former server left unfinished; call once, before the first submit.

        Returns:
            The jobs that were interrupted.
        """
        self._directories.sweep()
        interrupted = []
        for job in self.all():
            if job.result is None:
                self._directories.end(job.spec.id, JobState.INTERRUPTED, _interrupted(job.spec))
                interrupted.append(self.get(job.spec.id))
        self._changed()
        return interrupted

    def find(self, job_id: str) -> Job | None:
        """The job of that id, if its directory is there and can be read."""
        with contextlib.suppress(HoneError):
            return self.get(job_id)
        return None

    async def submit(
        self,
        spec: JobSpec,
        prepare: Callable[[Path], None] = build_afresh,
        *,
        anew: bool = False,
    ) -> tuple[Job, bool]:
        """Queue a job unless the same one exists and succeeded, was refused, or is under way.

        Two submits of one job must not overlap.

        Args:
            spec: What to build.
            prepare: Called with the job's directory before a worker sees it.
            anew: Even if it has succeeded or was refused.

        Returns:
            The job, and whether it existed already.

        Raises:
            FailedPrecondition: `close` was called.
            OSError: The directory cannot be written.
        """
        if spec.id in self._queue or spec.id in self._running:
            return self.get(spec.id), True
        former = self.find(spec.id)
        if former is not None and not anew and not can_be_resubmitted(former.state):
            return former, True
        self._require_open()
        staged = await asyncio.to_thread(self._directories.stage, spec, prepare)
        self._require_open()  # else the next server deletes what was staged
        self._ended.pop(spec.id, None)
        left = self._directories.place(staged, spec)
        if left is not None:
            self._spawn(asyncio.to_thread(delete, left), spec.id)
        self._queue.append(spec.id)
        self._start_next()
        return self.get(spec.id), False

    def all(self) -> list[Job]:
        """Every job whose directory can be read, oldest first."""
        found = [self.find(job_id) for job_id in self._directories.ids()]
        jobs = [job for job in found if job is not None]
        return sorted(jobs, key=lambda job: job.spec.submitted_unix_s)

    def get(self, job_id: str) -> Job:
        """One job; the files of one that has ended are read only once.

        Raises:
            UnknownJob: There is none of that id.
            InvalidDocument: Its specification cannot be read.
        """
        self._directories.path(job_id)
        ended = self._ended.get(job_id)
        if ended is not None:
            return ended
        files = self._directories.read(job_id)
        result = None if job_id in self._running else files.result
        state = JobState.RUNNING if job_id in self._running else JobState.QUEUED
        job = Job(
            spec=files.spec,
            state=state if result is None else result.state,
            progress=files.progress,
            result=result,
            position=self._queue.index(job_id) + 1 if job_id in self._queue else 0,
        )
        if job.has_ended:
            self._ended[job_id] = job
        return job

    def is_settled(self, job_id: str) -> bool:
        """Whether a job has no worker and all that follows from its end is done."""
        return job_id not in self._tasks.values()

    async def watch(self, job_id: str) -> AsyncIterator[Job]:
        """The job now and after each change, until it has ended and all that follows is done."""
        reader: SearchReader | None = None
        seen: Job | None = None
        while True:
            job = self.get(job_id)
            if job.has_ended:
                await self._settle(job_id)
            if job.spec.profile.search is not None:
                reader = reader or SearchReader(self._directories.path(job_id), job.spec)
                job = replace(job, search=await reader.read())
            if job != seen:
                yield job
                seen = job
            if job.has_ended:
                return
            await asyncio.sleep(_LOOK_EVERY_S)

    async def cancel(self, job_id: str) -> Job:
        """End a job that waits or runs; a job that has ended stays as it is.

        Returns:
            The job, once all that follows from its end is done.

        Raises:
            UnknownJob: There is none of that id.
        """
        if job_id in self._queue:
            self._queue.remove(job_id)
            self._spawn(self._give_up(job_id), job_id)
        elif job_id in self._running:
            self._running[job_id].set()
        await self._settle(job_id)
        return self.get(job_id)

    async def remove(self, job_id: str) -> None:
        """Delete an ended job's directory: out of sight first, then its bytes.

        Raises:
            UnknownJob: There is none of that id.
            FailedPrecondition: It has not ended.
        """
        self._require_ended(job_id)
        await self._settle(job_id)
        self._require_ended(job_id)
        hidden = self._directories.hide(job_id)
        del self._ended[job_id]
        self._changed()
        await asyncio.to_thread(delete, hidden)

    @property
    def running(self) -> tuple[str, ...]:
        """The ids of the jobs that have a worker."""
        return tuple(self._running)

    def pause(self, why: str) -> None:
        """Stop the work on every job, and on those that get a worker from now on, until `resume`.

        Workers notice within a fraction of a second; an empty `why` lets them go on.
        """
        self._pause = why
        for job_id in self._running:
            self._directories.pause(job_id, why)

    def resume(self) -> None:
        """Let the work go on."""
        self.pause("")

    async def close(self) -> None:
        """End every worker and wait for all that follows from jobs that have ended.

        What was under way is found as interrupted by the next server.
        """
        self._closing = True
        self._queue.clear()
        for stop in self._running.values():
            stop.set()
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _require_open(self) -> None:
        if self._closing:
            raise FailedPrecondition("the server is stopping; submit the job to the next one")

    def _require_ended(self, job_id: str) -> None:
        job = self.get(job_id)
        if not job.has_ended:
            raise FailedPrecondition(f"job {job_id} is {job.state}; cancel it first")

    def _spawn(self, work: Coroutine[Any, Any, None], job_id: str) -> None:
        task = asyncio.create_task(work, name=f"job {job_id}")
        self._tasks[task] = job_id
        task.add_done_callback(self._tasks.pop)

    async def _settle(self, job_id: str) -> None:
        """Wait until a job has no worker and all that follows from its end is done."""
        tasks = [task for task, owner in self._tasks.items() if owner == job_id]
        if tasks:
            await asyncio.wait(tasks)

    def _start_next(self) -> None:
        while self._queue and len(self._running) < self._parallel and not self._closing:
            job_id = self._queue.pop(0)
            stop = self._running[job_id] = asyncio.Event()
            self._spawn(self._run(job_id, stop), job_id)
        self._changed()

    async def _run(self, job_id: str, stop: asyncio.Event) -> None:
        try:
            await self._work(job_id, stop)
        except Exception as error:
            _log.exception("job %s: its worker could not be followed", job_id)
            await self._end(job_id, JobState.FAILED, f"unexpected error: {error}")
        finally:
            del self._running[job_id]
        self._start_next()
        await self._tell_end(job_id)

    async def _work(self, job_id: str, stop: asyncio.Event) -> None:
        """Run one worker to its end and see to a result, unless the server is stopping."""
        self._directories.pause(job_id, self._pause)
        reason = ""
        if not stop.is_set():
            try:
                reason = await run_worker(
                    self._worker,
                    self._directories.path(job_id),
                    stall_timeout_s=self._stall_timeout_s,
                    stop=stop,
                )
            except OSError as error:
                reason = f"no worker could be started: {error}"
        if self._closing or self._directories.result(job_id) is not None:
            return
        if stop.is_set():
            await self._end(job_id, JobState.CANCELLED, "cancelled")
        else:
            await self._end(job_id, JobState.FAILED, reason)

    async def _give_up(self, job_id: str) -> None:
        """See to the end of a job that nobody has worked on."""
        await self._end(job_id, JobState.CANCELLED, "cancelled before it started")
        self._changed()
        await self._tell_end(job_id)

    async def _end(self, job_id: str, state: JobState, reason: str) -> None:
        """Write a job's result while others are answered: the disk may be busy."""
        await asyncio.to_thread(self._directories.end, job_id, state, reason)

    async def _tell_end(self, job_id: str) -> None:
        try:
            job = self.get(job_id)
            if job.has_ended:
                await self._on_end(job)
        except Exception:
            _log.exception("job %s has ended, but not all that follows could be done", job_id)

    def _changed(self) -> None:
        try:
            self._on_change()
        except Exception:
            _log.exception("a change of jobs could not be told")


def _interrupted(spec: JobSpec) -> str:
    reason = "the server stopped while this job was waiting or running; submit it again"
    return reason if spec.profile.search is None else f"{reason}: its search goes on where it was"


def can_be_resubmitted(state: JobState) -> bool:
    """Whether the same work may be tried again."""
    return state in _RESUBMITTABLE
