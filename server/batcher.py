"""Joins concurrent requests into runs. No timer: while lanes are busy the next batch fills.

What arrives in one turn of the event loop is joined; a free lane takes what is queued at once.
Requests whose caller has gone or whose deadline has passed leave before they run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from optimizers.contract.runtime import Feeds
from server.errors import DeadlineExceeded, ModelFailed, Overloaded
from server.waiting import Arrays, Waiting, WaitingLine


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
class Inline:
    """What may run on the event loop's own thread, because that costs less than a hand-over.

    Attributes:
        rows: Most rows in one run.
        row_bytes: Most input bytes of each row.
    """

    rows: int
    row_bytes: int

    def admits(self, rows: int, size_bytes: int) -> bool:
        """Whether a run is known to be as cheap as those that were timed."""
        return rows <= self.rows and size_bytes <= rows * self.row_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPolicy:
    """How requests are joined and how many may wait.

    Attributes:
        lanes: Concurrent runs, at least 1.
        max_batch: Most rows joined into one run; 1 joins nothing.
        max_queue_items: Requests that may wait.
        max_queue_bytes: Bytes of their inputs.
        inline: Which runs need no lane's thread; None: all take one.
    """

    lanes: int
    max_batch: int
    max_queue_items: int
    max_queue_bytes: int
    inline: Inline | None = None


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
        self._line = WaitingLine()
        self._free_lanes = policy.lanes
        self._flush_is_due = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits or runs."""
        return self._idle.is_set()

    async def infer(
        self, feeds: Feeds, rows: int, outputs: Sequence[str], deadline: float | None = None
    ) -> Arrays:
        """Answer one request.

        Args:
            feeds: One array per input, in the signature's order and checked against it.
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
            SessionClosed: The variant was closed meanwhile.
        """
        loop = asyncio.get_running_loop()
        waiting = Waiting(
            feeds, rows, tuple(outputs), deadline, self._clock(), loop.create_future()
        )
        self._admit(waiting)
        if not self._flush_is_due:
            self._flush_is_due = True
            loop.call_soon(self._flush)
        timer = None
        if deadline is not None:
            timer = loop.call_later(max(0.0, deadline - self._clock()), self._expire, waiting)
        try:
            return await waiting.future
        except asyncio.CancelledError:
            self._withdraw(waiting)
            raise
        finally:
            if timer is not None:
                timer.cancel()

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._line)

    async def drain(self) -> None:
        """Wait until nothing waits or runs."""
        await self._idle.wait()

    def _admit(self, waiting: Waiting) -> None:
        policy, line = self._policy, self._line
        if len(line) >= policy.max_queue_items:
            self._observer.refused("queue_items")
            raise Overloaded(
                f"Exceeds maximum queue size: {policy.max_queue_items} requests are waiting; "
                "try again later",
                reason="queue_items",
            )
        if line and line.size_bytes + waiting.size_bytes > policy.max_queue_bytes:
            self._observer.refused("queue_bytes")
            raise Overloaded(
                f"Exceeds maximum queue size: {line.size_bytes} bytes are waiting and at most "
                f"{policy.max_queue_bytes} may; try again later",
                reason="queue_bytes",
            )
        line.append(waiting)
        self._idle.clear()

    def _withdraw(self, waiting: Waiting) -> None:
        """Take a request out whose caller has gone; one that runs is past that."""
        if self._line.remove(waiting):
            self._observer.refused("deadline" if self._is_late(waiting) else "cancelled")
            self._settle()

    def _expire(self, waiting: Waiting) -> None:
        if self._line.remove(waiting):
            self._refuse_late(waiting)
            self._settle()

    def _is_late(self, waiting: Waiting) -> bool:
        return waiting.deadline is not None and waiting.deadline <= self._clock()

    def _refuse_late(self, waiting: Waiting) -> None:
        self._observer.refused("deadline")
        waiting.fail(DeadlineExceeded("Request timeout expired while waiting for a free lane"))

    def _flush(self) -> None:
        self._flush_is_due = False
        while self._free_lanes > 0:
            batch = self._line.take_batch(self._policy.max_batch, self._is_live)
            if not batch:
                break
            self._start(batch)
        self._settle()

    def _settle(self) -> None:
        self._observer.queue_changed(len(self._line))
        if not self._line and self._free_lanes == self._policy.lanes:
            self._idle.set()

    def _is_live(self, waiting: Waiting) -> bool:
        if waiting.future.done():
            self._observer.refused("cancelled")
            return False
        if self._is_late(waiting):
            self._refuse_late(waiting)
            return False
        return True

    def _start(self, batch: list[Waiting]) -> None:
        """Occupy a lane with a batch; whatever goes wrong, the lane becomes free again."""
        self._free_lanes -= 1
        started = self._clock()
        loop = asyncio.get_running_loop()

        def finished(run: Future[Arrays]) -> None:
            error = run.exception()
            results = None if error else run.result()
            loop.call_soon_threadsafe(self._lane_is_free, batch, started, results, error)

        inline = self._policy.inline
        try:
            feeds = _join(batch)
            if inline is not None and inline.admits(_rows(batch), _size_bytes(batch)):
                self._finish(batch, started, self._runner.run(feeds, batch[0].outputs), None)
            else:
                self._runner.submit(feeds, batch[0].outputs).add_done_callback(finished)
        except Exception as error:
            self._finish(batch, started, None, error)

    def _lane_is_free(
        self,
        batch: list[Waiting],
        started: float,
        results: Arrays | None,
        error: BaseException | None,
    ) -> None:
        self._finish(batch, started, results, error)
        self._flush()

    def _finish(
        self,
        batch: list[Waiting],
        started: float,
        results: Arrays | None,
        error: BaseException | None,
    ) -> None:
        self._free_lanes += 1
        if results is not None:
            now = self._clock()
            rows = _rows(batch)
            self._observer.ran(rows, [started - w.since for w in batch], now - started)
            _deliver(batch, rows, results)
        elif len(batch) == 1:
            batch[0].fail(error or ModelFailed("the model gave no answer"))
        else:
            # One of them may be at fault: let every request fail or succeed on its own.
            self._line.put_back_alone(batch)


def _rows(batch: list[Waiting]) -> int:
    return sum(waiting.rows for waiting in batch)


def _size_bytes(batch: list[Waiting]) -> int:
    return sum(waiting.size_bytes for waiting in batch)


def _join(batch: list[Waiting]) -> Feeds:
    if len(batch) == 1:
        return batch[0].feeds
    return {
        name: np.concatenate([waiting.feeds[name] for waiting in batch]) for name in batch[0].feeds
    }


def _deliver(batch: list[Waiting], rows: int, results: list[NDArray[Any]]) -> None:
    if len(batch) == 1:
        batch[0].answer(results)
        return
    if any(array.ndim == 0 or array.shape[0] != rows for array in results):
        for waiting in batch:
            waiting.fail(ModelFailed("the model's outputs do not have one row per input row"))
        return
    start = 0
    for waiting in batch:
        end = start + waiting.rows
        waiting.answer([array[start:end] for array in results])
        start = end
