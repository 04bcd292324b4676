"""Joins concurrent requests into runs. No timer: while lanes are busy the next batch fills.

What arrives in one turn of the event loop is joined; a free lane takes what is queued at once.
Requests whose caller has gone or whose deadline has passed leave before they run.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from optimizers.contract.runtime import Feeds
from server.errors import DeadlineExceeded, ModelFailed, NotReady, Overloaded

Arrays = list[NDArray[Any]]


class Runner(Protocol):
    """What computes: an open session, or something that behaves like one."""

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> Arrays:
        """Compute in the calling thread."""

    def submit(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> Future[Arrays]:
        """Compute on a lane."""


class Observer(Protocol):
    """Who wants to know what the batcher does."""

    def ran(self, rows: int, queued_s: Sequence[float], compute_s: float) -> None:
        """One run is over."""

    def refused(self, reason: str) -> None:
        """A request was refused or dropped before it ran."""

    def queue_changed(self, waiting: int) -> None:
        """So many requests wait now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPolicy:
    """How requests are joined and how many may wait.

    Attributes:
        lanes: Concurrent runs, at least 1.
        max_batch: Most rows joined into one run; 1 runs every request alone.
        max_queue_items: Requests that may wait.
        max_queue_bytes: Bytes of their inputs.
        inline: Run on the event loop's own thread; for models whose run costs less than
            handing it to another thread.
    """

    lanes: int
    max_batch: int
    max_queue_items: int
    max_queue_bytes: int
    inline: bool = False


class _Waiting:
    """One request in the queue."""

    __slots__ = ("bytes", "deadline", "feeds", "future", "key", "outputs", "rows", "since")

    def __init__(
        self,
        feeds: Feeds,
        rows: int,
        outputs: tuple[str, ...],
        deadline: float | None,
        since: float,
        future: asyncio.Future[Arrays],
    ) -> None:
        self.feeds = feeds
        self.rows = rows
        self.outputs = outputs
        self.deadline = deadline
        self.since = since
        self.future = future
        self.bytes = sum(array.nbytes for array in feeds.values())
        self.key = (outputs, *(array.shape[1:] for array in feeds.values()))


class Batcher:
    """The queue of one open variant. Belongs to one event loop."""

    def __init__(
        self,
        runner: Runner,
        policy: BatchPolicy,
        observer: Observer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Feed `runner` by `policy`; deadlines are points on `clock`."""
        self._runner = runner
        self._policy = policy
        self._observer = observer
        self._clock = clock
        self._queue: deque[_Waiting] = deque()
        self._queued_bytes = 0
        self._free_lanes = policy.lanes
        self._flush_is_due = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def infer(
        self, feeds: Feeds, rows: int, outputs: Sequence[str], deadline: float | None = None
    ) -> Arrays:
        """Answer one request.

        Args:
            feeds: One array per input, checked against the signature.
            rows: Length of the first dimension.
            outputs: Names of the outputs wanted.
            deadline: When the caller stops waiting, on the batcher's clock.

        Returns:
            One array per name in `outputs`.

        Raises:
            Overloaded: The queue is full.
            DeadlineExceeded: The deadline passed before the model ran.
            ModelFailed: The outputs do not split into the requests' rows.
            RunFailed: The runtime refused these inputs.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(
            feeds, rows, tuple(outputs), deadline, self._clock(), loop.create_future()
        )
        self._admit(waiting)
        if not self._flush_is_due:
            self._flush_is_due = True
            loop.call_soon(self._flush)
        try:
            return await waiting.future
        except asyncio.CancelledError:
            self._withdraw(waiting)
            raise

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    async def drain(self) -> None:
        """Wait until nothing waits or runs."""
        await self._idle.wait()

    def _admit(self, waiting: _Waiting) -> None:
        policy = self._policy
        if len(self._queue) >= policy.max_queue_items:
            self._observer.refused("queue_items")
            raise Overloaded(
                f"Exceeds maximum queue size: {policy.max_queue_items} requests are waiting; "
                "try again later",
                reason="queue_items",
            )
        if self._queue and self._queued_bytes + waiting.bytes > policy.max_queue_bytes:
            self._observer.refused("queue_bytes")
            raise Overloaded(
                f"Exceeds maximum queue size: {self._queued_bytes} bytes are waiting and at most "
                f"{policy.max_queue_bytes} may; try again later",
                reason="queue_bytes",
            )
        self._queue.append(waiting)
        self._queued_bytes += waiting.bytes
        self._idle.clear()

    def _withdraw(self, waiting: _Waiting) -> None:
        try:
            self._queue.remove(waiting)
        except ValueError:
            return  # already running; the answer is thrown away
        self._queued_bytes -= waiting.bytes
        self._observer.refused("cancelled")
        self._settle()

    def _flush(self) -> None:
        self._flush_is_due = False
        while self._queue and self._free_lanes:
            batch = self._next_batch()
            if not batch:
                break
            self._free_lanes -= 1
            if self._policy.inline:
                self._run_inline(batch)
            else:
                self._start(batch)
        self._settle()

    def _settle(self) -> None:
        self._observer.queue_changed(len(self._queue))
        if not self._queue and self._free_lanes == self._policy.lanes:
            self._idle.set()

    def _next_batch(self) -> list[_Waiting]:
        """Take the oldest live request and whatever may share its run, in order of age."""
        now = self._clock()
        while self._queue:
            first = self._take()
            if self._is_live(first, now):
                break
        else:
            return []
        batch, rows = [first], first.rows
        if self._policy.max_batch == 1:
            return batch
        passed_over: list[_Waiting] = []
        while self._queue and rows < self._policy.max_batch:
            candidate = self._take()
            if not self._is_live(candidate, now):
                continue
            if candidate.key == first.key and rows + candidate.rows <= self._policy.max_batch:
                batch.append(candidate)
                rows += candidate.rows
            else:
                passed_over.append(candidate)
        for candidate in reversed(passed_over):
            self._queue.appendleft(candidate)
            self._queued_bytes += candidate.bytes
        return batch

    def _take(self) -> _Waiting:
        waiting = self._queue.popleft()
        self._queued_bytes -= waiting.bytes
        return waiting

    def _is_live(self, waiting: _Waiting, now: float) -> bool:
        if waiting.future.done():
            self._observer.refused("cancelled")
            return False
        if waiting.deadline is not None and waiting.deadline <= now:
            self._observer.refused("deadline")
            waiting.future.set_exception(
                DeadlineExceeded("Request timeout expired while waiting for a free lane")
            )
            return False
        return True

    def _run_inline(self, batch: list[_Waiting]) -> None:
        started = self._clock()
        try:
            results = self._runner.run(_join(batch), batch[0].outputs)
        except Exception as error:
            self._finish(batch, started, None, error)
        else:
            self._finish(batch, started, results, None)

    def _start(self, batch: list[_Waiting]) -> None:
        started = self._clock()
        loop = asyncio.get_running_loop()

        def finished(run: Future[Arrays]) -> None:
            error = run.exception()
            results = None if error else run.result()
            loop.call_soon_threadsafe(self._lane_is_free, batch, started, results, error)

        try:
            run = self._runner.submit(_join(batch), batch[0].outputs)
        except RuntimeError:  # the session is closed; nobody routes here any more
            gone = NotReady("this variant was closed while the request waited; try again")
            self._finish(batch, started, None, gone)
            return
        run.add_done_callback(finished)

    def _lane_is_free(
        self,
        batch: list[_Waiting],
        started: float,
        results: Arrays | None,
        error: BaseException | None,
    ) -> None:
        self._finish(batch, started, results, error)
        self._flush()

    def _finish(
        self,
        batch: list[_Waiting],
        started: float,
        results: Arrays | None,
        error: BaseException | None,
    ) -> None:
        self._free_lanes += 1
        rows = sum(waiting.rows for waiting in batch)
        if results is not None:
            now = self._clock()
            self._observer.ran(rows, [started - w.since for w in batch], now - started)
            _deliver(batch, rows, results)
        elif len(batch) == 1:
            _fail(batch[0], error)
        else:
            self._run_one_by_one(batch)

    def _run_one_by_one(self, batch: list[_Waiting]) -> None:
        """After a joined run failed, let every request fail or succeed on its own."""
        for waiting in batch:
            self._free_lanes -= 1
            if waiting.future.done():
                self._free_lanes += 1
            elif self._policy.inline:
                self._run_inline([waiting])
            else:
                self._start([waiting])


def _join(batch: list[_Waiting]) -> Feeds:
    if len(batch) == 1:
        return batch[0].feeds
    return {
        name: np.concatenate([waiting.feeds[name] for waiting in batch]) for name in batch[0].feeds
    }


def _deliver(batch: list[_Waiting], rows: int, results: Arrays) -> None:
    if len(batch) == 1:
        if not batch[0].future.done():
            batch[0].future.set_result(results)
        return
    if any(array.ndim == 0 or array.shape[0] != rows for array in results):
        for waiting in batch:
            _fail(waiting, ModelFailed("the model's outputs do not have one row per input row"))
        return
    start = 0
    for waiting in batch:
        end = start + waiting.rows
        if not waiting.future.done():
            waiting.future.set_result([array[start:end] for array in results])
        start = end


def _fail(waiting: _Waiting, error: BaseException | None) -> None:
    if not waiting.future.done():
        waiting.future.set_exception(error or ModelFailed("the model gave no answer"))
