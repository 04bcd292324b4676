"""Joins concurrent requests into runs, by what runs are measured to cost.

What arrives in one turn of the event loop is joined; a free lane takes what is queued at once,
and while all lanes are busy the next batch fills. Rows are joined up to where a row gets no
cheaper. A caller who is alone gets the whole machine, where that is faster. Requests whose caller
has gone or whose time has passed leave before they run, and a run that nobody waits for is ended.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import numpy as np

from optimizers.contract.runtime import Arrays, Feeds, Over
from server.cost import CostCurve, Costs
from server.errors import DeadlineExceeded, ModelFailed, QueueTimeout
from server.policy import BatchPolicy
from server.prompt import Prompt
from server.room import Admission, Room
from server.timeline import note_run
from server.waiting import (
    LAST_LEVEL,
    NO_TERMS,
    Alike,
    Joint,
    Terms,
    Waiting,
    WaitingLine,
    shapes_and_size,
)

_DO_NOT_SPLIT: Final = "the model's outputs do not have one row per input row"
_CROWD_RUNS: Final = 8
"""Runs for which a second caller is remembered: nobody is alone just after meeting another."""

_TIMERS_ARE_LATE_S: Final = 0.002
"""By so much at worst on a machine that has time; the loop counts in milliseconds."""


class Started(Protocol):
    """A run on a lane."""

    def terminate(self) -> None:
        """End it soon."""


class Runner(Protocol):
    """What computes: an open session, or something that behaves like one."""

    @property
    def wide_threads(self) -> int:
        """Threads inside a wide run; 0 where there are none."""

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> Arrays:
        """Compute in the calling thread."""

    def start(
        self, feeds: Feeds, outputs: Sequence[str] | None, over: Over, *, wide: bool = False
    ) -> Started:
        """Compute on a lane; `over` is told the answer or the error, in any thread."""


class Observer(Protocol):
    """Who wants to know what the batcher does."""

    def ran(self, rows: int, queued_s: Sequence[float], compute_s: float) -> None:
        """One run is over."""

    def refused(self, reason: str) -> None:
        """A request was refused or dropped before it ran."""

    def queue_changed(self, waiting: int) -> None:
        """So many requests wait now."""


class _Running:
    """A batch that occupies lanes."""

    __slots__ = ("batch", "curve", "expected_s", "joint", "lanes", "rows", "started", "wide")

    def __init__(
        self, batch: list[Waiting], curve: CostCurve, started: float, lanes: int, wide: bool
    ) -> None:
        self.batch = batch
        self.curve = curve
        self.started = started
        self.lanes = lanes
        self.wide = wide
        self.rows = sum(waiting.rows for waiting in batch)
        self.expected_s = curve.seconds(self.rows)
        self.joint = Joint(len(batch))
        for waiting in batch:
            waiting.joint = self.joint


class Batcher:
    """The queue of one open variant. Belongs to one event loop."""

    def __init__(
        self,
        runner: Runner,
        policy: BatchPolicy,
        costs: Costs,
        observer: Observer,
        room: Room,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Feed `runner` by `policy`.

        Args:
            runner: Computes.
            policy: How to join, and how many may wait.
            costs: What runs cost; refined here.
            observer: Is told what happens.
            room: What may wait in total, shared with other variants' batchers.
            clock: Deadlines are points on it.
        """
        self._runner = runner
        self._policy = policy
        self._costs = costs
        self._observer = observer
        self._clock = clock
        self._line = WaitingLine()
        self._admission = Admission(policy, self._line, room, observer.refused)
        self._free_lanes = policy.lanes
        self._running: set[_Running] = set()
        self._in_hand = 0
        self._crowded_until = 0.0
        self._flush_is_due = False
        self._splits = True
        """Whether outputs were seen to have a row for each row of the inputs, or not looked at."""
        self._may_hurry = False
        """Whether the next request, if it is the only one, need not wait for others that come in
        the same turn of the loop: the last turn had one only."""
        self._delay: asyncio.TimerHandle | None = None
        self._traces = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits or runs."""
        return self._idle.is_set()

    async def infer(
        self,
        feeds: Feeds,
        rows: int,
        outputs: tuple[str, ...],
        terms: Terms = NO_TERMS,
    ) -> Arrays:
        """Answer one request.

        Args:
            feeds: One array per input, in the signature's order and checked against it.
            rows: Length of the first dimension.
            outputs: Names of the outputs wanted.
            terms: On what terms its caller waits.

        Returns:
            One array per name in `outputs`.

        Raises:
            Overloaded: The queue is full, or the request could not be answered in time.
            InvalidRequest: There is no such priority.
            DeadlineExceeded: The deadline passed first.
            QueueTimeout: It waited longer than it or the queue's policy allows.
            ModelFailed: The outputs do not split into the requests' rows.
            RunFailed: The runtime refused these inputs.
            SessionClosed: The variant was closed meanwhile.
        """
        loop = asyncio.get_running_loop()
        now = self._clock()
        deadline, timeout_s, priority, timeline = terms
        if self._may_hurry and not self._in_hand and self._policy.inline_s and timeline is None:
            shapes, size_bytes = shapes_and_size(feeds, rows)
            curve = self._costs.curve(shapes, size_bytes, rows)
            if curve.is_observed and curve.seconds(rows) <= self._policy.inline_s:
                return self.infer_at_once(feeds, Alike(rows, shapes, size_bytes, outputs), 1)
        waiting = Waiting(feeds, rows, outputs, now, Prompt(loop=loop), deadline)
        curve = self._costs.curve(waiting.shapes, waiting.size_bytes, rows)
        waiting.cost_s = rows * curve.row_s
        if timeout_s or priority or self._admission.has_rules:
            self._admission.place(waiting, timeout_s, priority)
        if timeline is not None:
            self._traces = True
            timeline.queued_at = now
            waiting.timeline = timeline
        if self._is_the_only_one(now, deadline):
            self._idle.clear()
            self._start([waiting], curve, now, wide=self._costs.width.pays())
            self._settle()  # it may not have come to a run
        else:
            self._stand_in_line(waiting, curve, now)
        self._in_hand += 1
        ends = _earliest(deadline, waiting.leaves_at)
        timer = None
        if ends is not None:
            timer = loop.call_later(max(0.0, ends - now), self._time_is_up, waiting)
        try:
            arrays: Arrays = await waiting.future
            return arrays
        except asyncio.CancelledError:
            self._withdraw(waiting)
            raise
        finally:
            self._in_hand -= 1
            if timer is not None:
                timer.cancel()

    def most_at_once(self, alike: Alike, count: int) -> int:
        """How many of `count` requests that came together may be answered by one run right now.

        0: they have to wait in line, because others do, or because a run would hold up the event
        loop; or, of one by itself, because more may come in the same turn of the loop.
        """
        if self._line.items or not self._free_lanes or not self._splits:
            return 0
        if count == 1 and not self._may_hurry:
            return 0
        rows, policy = alike.rows, self._policy
        curve = self._costs.curve(alike.shapes, alike.size_bytes, rows)
        if not curve.is_observed or curve.seconds(rows) > policy.inline_s:
            return 0
        if count == 1 or alike.shapes is None:
            return 1
        there = rows * count
        most = min(policy.max_batch, curve.rows_to_try(there))
        return max(1, curve.rows_within(policy.inline_s, most) // rows)

    def infer_at_once(
        self, feeds: Feeds, alike: Alike, count: int, waited_s: float = 0.0
    ) -> Arrays:
        """Answer `count` requests by one run in the calling thread; see `most_at_once`.

        Args:
            feeds: Their inputs, joined.
            alike: What each of them is like.
            count: How many there are.
            waited_s: How long they have been here.

        Returns:
            One array per output wanted, joined likewise.

        Raises:
            ModelFailed: The outputs do not split into the requests' rows; they never will.
            RunFailed: The runtime refused these inputs.
            OutOfMemory: It could not allocate what the run needs.
            SessionClosed: The variant was closed meanwhile.
        """
        now = self._clock()
        curve = self._costs.curve(alike.shapes, alike.size_bytes, alike.rows)
        if self._may_hurry:
            self._may_hurry = False
            if count == 1:
                asyncio.get_running_loop().call_soon(self._turn_is_over)
        results = self._runner.run(feeds, alike.outputs)
        took, rows = self._clock() - now, alike.rows * count
        if count > 1 and not _splits(results, rows):
            self._splits = False
            raise ModelFailed(_DO_NOT_SPLIT)
        curve.observe(rows, took)
        self._observer.ran(rows, (waited_s,) * count, took)
        return results

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._line.items

    async def drain(self) -> None:
        """Wait until nothing waits or runs."""
        await self._idle.wait()

    # Who comes

    def _is_the_only_one(self, now: float, deadline: float | None) -> bool:
        """Whether a request that comes now need neither wait for others nor stand in line."""
        return (
            self._may_hurry
            and not self._in_hand
            and not self._policy.inline_s
            and self._is_calm(now)
            and not self._policy.batching.max_delay_s
            and (deadline is None or deadline > now)
        )

    def _stand_in_line(self, waiting: Waiting, curve: CostCurve, now: float) -> None:
        """Let a request wait, if it may, until this turn of the loop is over."""
        self._admission.admit(waiting)
        if not self._free_lanes:
            self._admission.require_time(waiting, curve, now, self._busy_s(now))
        self._admission.enters(waiting)
        self._line.append(waiting)
        self._idle.clear()
        if self._in_hand and self._runner.wide_threads:
            self._crowded_until = now + _CROWD_RUNS * curve.seconds(1)
        if not self._flush_is_due:
            self._flush_is_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    # Who leaves early

    def _withdraw(self, waiting: Waiting) -> None:
        """The caller has gone: its request leaves the line, or the run if that is its last."""
        if self._line.remove(waiting):
            self._admission.left(waiting)
            late = waiting.deadline is not None and waiting.deadline <= self._clock()
            self._observer.refused("deadline" if late else "cancelled")
            self._settle()
        else:
            waiting.leave_run()

    def _time_is_up(self, waiting: Waiting) -> None:
        if waiting.future.done():
            return
        deadline, leaves_at = waiting.deadline, waiting.leaves_at
        if deadline is not None and (leaves_at is None or deadline <= leaves_at):
            self._refuse_late(waiting)
            return
        waiting.leaves_at = None
        if waiting.waits:
            self._waited_long(waiting)
        if deadline is not None:
            later = asyncio.get_running_loop().call_later
            later(max(0.0, deadline - self._clock()), self._time_is_up, waiting)

    def _refuse_late(self, waiting: Waiting) -> None:
        if self._line.remove(waiting):
            self._admission.left(waiting)
            self._observer.refused("deadline")
            waiting.fail(DeadlineExceeded("Request timeout expired while waiting for a free lane"))
            self._settle()
        else:
            waiting.fail(DeadlineExceeded("Request timeout expired while the model ran"))
            waiting.leave_run()

    def _waited_long(self, waiting: Waiting) -> None:
        """The queue's own time-out: refuse, or serve after all others."""
        if self._policy.batching.policy(waiting.level).delays:
            self._admission.left(waiting)
            self._line.move_to_level(waiting, LAST_LEVEL)
            self._admission.enters(waiting)
            return
        self._line.remove(waiting)
        self._admission.left(waiting)
        self._observer.refused("timeout")
        waiting.fail(QueueTimeout("Request timeout expired"))
        self._settle()

    # What runs next

    def _turn_is_over(self) -> None:
        self._may_hurry = True

    def _flush(self) -> None:
        if self._flush_is_due:
            self._flush_is_due = False
            self._may_hurry = self._line.items == self._in_hand == 1
        while self._free_lanes > 0 and self._start_next():
            pass
        self._settle()

    def _start_next(self) -> bool:
        """Start a run, or refuse what is too late; False when nothing can be done now."""
        first = self._line.oldest()
        if first is None or self._start_with(first):
            return first is not None
        # It waits for company on purpose, which holds up nobody of another shape.
        return any(self._start_with(other) for other in self._line.leaders() if other is not first)

    def _start_with(self, first: Waiting) -> bool:
        """Start a run that `first` leads; False when it waits for others on purpose."""
        now = self._clock()
        if first.deadline is not None and first.deadline <= now:
            self._refuse_late(first)
            return True
        curve = self._costs.curve(first.shapes, first.size_bytes, first.rows)
        wide = self._is_alone(now)
        rows = self._rows_to_take(first, curve, now)
        if rows == 0:
            return False

        def may_join(candidate: Waiting, together: int) -> bool:
            left = candidate.deadline
            return left is None or now + curve.seconds(together) <= left

        batch = self._line.take_batch(first, rows, may_join)
        for waiting in batch:
            self._admission.left(waiting)
        self._start(batch, curve, now, wide=wide)
        return True

    def _is_alone(self, now: float) -> bool:
        """Whether a single caller may have the whole machine."""
        return self._line.items == 1 and self._is_calm(now) and self._costs.width.pays()

    def _is_calm(self, now: float) -> bool:
        """Whether runs may be wide for a while, and none is under way."""
        return self._runner.wide_threads > 0 and not self._running and now >= self._crowded_until

    def _rows_to_take(self, first: Waiting, curve: CostCurve, now: float) -> int:
        """Most rows for a run that `first` leads; 0 when it should wait for others."""
        policy = self._policy
        if policy.max_batch == 1 or first.runs_alone or first.rows >= policy.max_batch:
            return 1
        there = self._line.rows_beside(first)
        batching = policy.batching
        if batching.max_delay_s and there < policy.max_batch:
            return self._rows_worth_waiting_for(first, there, curve, now)
        most = min(policy.max_batch, curve.rows_to_try(there))
        if most < there and batching.preferred:
            most = max((one for one in batching.preferred if one <= most), default=most)
        if curve.seconds(1) <= policy.inline_s:
            most = curve.rows_within(policy.inline_s, most)
        else:
            # Several lanes share what waits: each takes its part, not the first one all of it.
            most = min(most, -(-there // self._free_lanes))
        if first.deadline is not None:
            most = curve.rows_within(first.deadline - now, most)
        return max(1, most)

    def _rows_worth_waiting_for(
        self, first: Waiting, there: int, curve: CostCurve, now: float
    ) -> int:
        policy = self._policy
        fitting = [rows for rows in policy.batching.preferred if rows <= there]
        if fitting:
            return fitting[-1]
        goes_at = first.since + policy.batching.max_delay_s
        ends = self._line.earliest_deadline_beside(first)
        if ends is not None:
            goes_at = min(goes_at, ends - curve.seconds(there) - _TIMERS_ARE_LATE_S)
        if now >= goes_at:
            return there
        loop = asyncio.get_running_loop()
        wakes_at = loop.time() + goes_at - now
        if self._delay is not None and wakes_at < self._delay.when():
            self._delay.cancel()
            self._delay = None
        if self._delay is None:
            self._delay = loop.call_at(wakes_at, self._delay_is_over)
        return 0

    def _delay_is_over(self) -> None:
        self._delay = None
        self._flush()

    # Runs

    def _start(self, batch: list[Waiting], curve: CostCurve, now: float, *, wide: bool) -> None:
        """Occupy lanes with a batch; whatever goes wrong, they become free again."""
        running = _Running(batch, curve, now, self._policy.lanes if wide else 1, wide)
        self._free_lanes -= running.lanes
        self._running.add(running)
        inline = curve.is_observed and running.expected_s <= self._policy.inline_s
        try:
            feeds = _join(batch)
            if not inline:
                running.joint.run = self._start_on_lane(running, feeds)
                return
            results = self._runner.run(feeds, batch[0].outputs)
        except Exception as error:
            self._finish(running, None, error)
            return
        self._finish(running, results, None)

    def _start_on_lane(self, running: _Running, feeds: Feeds) -> Started:
        tell = asyncio.get_running_loop().call_soon_threadsafe

        def over(results: Arrays | None, error: Exception | None) -> None:
            tell(self._lane_is_free, running, results, error)

        outputs = running.batch[0].outputs
        return self._runner.start(feeds, outputs, over, wide=running.wide)

    def _lane_is_free(
        self, running: _Running, results: Arrays | None, error: Exception | None
    ) -> None:
        if results is None or self._line.items:
            try:
                self._finish(running, results, error)
            finally:
                self._flush()
            return
        # Nobody waits for the lane, but somebody for the answer: books are kept behind it.
        took = self._vacate(running)
        _deliver(running.batch, running.rows, results)
        asyncio.get_running_loop().call_soon(self._was_answered, running, took)

    def _was_answered(self, running: _Running, took: float) -> None:
        try:
            self._account_for(running, took)
        finally:
            self._flush()

    def _finish(self, running: _Running, results: Arrays | None, error: Exception | None) -> None:
        took = self._vacate(running)
        batch = running.batch
        if results is not None:
            _deliver(batch, running.rows, results)
            self._account_for(running, took)
            return
        if not running.joint.callers and took > running.expected_s:
            # Were ended runs to teach nothing, too low an estimate would let in for ever what
            # cannot be answered in time.
            self._learn(running, took)
        if len(batch) == 1:
            batch[0].fail(error or ModelFailed("the model gave no answer"))
        elif running.joint.callers:
            # One of them may be at fault: let every request fail or succeed on its own.
            self._put_back(batch)

    def _vacate(self, running: _Running) -> float:
        """Free a run's lanes; how many seconds it had them."""
        self._free_lanes += running.lanes
        self._running.discard(running)
        if self._traces:
            self._note(running)
        return self._clock() - running.started

    def _account_for(self, running: _Running, took: float) -> None:
        self._learn(running, took)
        self._observer.ran(running.rows, [running.started - w.since for w in running.batch], took)

    def _learn(self, running: _Running, took: float) -> None:
        if running.wide:
            self._costs.width.observe(took / running.expected_s)
        else:
            running.curve.observe(running.rows, took)

    def _put_back(self, batch: list[Waiting]) -> None:
        left = [waiting for waiting in batch if not waiting.future.done()]
        for waiting in left:
            waiting.joint = None
            self._admission.enters(waiting)
        self._line.put_back_alone(left)

    def _settle(self) -> None:
        self._observer.queue_changed(self._line.items)
        if not self._line.items and not self._running:
            self._idle.set()

    def _busy_s(self, now: float) -> float:
        """Expected time until the lanes are free, summed over them."""
        return sum(
            max(0.0, running.started + running.expected_s - now) * running.lanes
            for running in self._running
            if running.joint.callers  # else it was ended and is over in a moment
        )

    def _note(self, running: _Running) -> None:
        timelines = [waiting.timeline for waiting in running.batch]
        ended_at = self._clock()
        note_run(timelines, rows=running.rows, started_at=running.started, ended_at=ended_at)


def _earliest(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return one if other is None else other
    return min(one, other)


def _join(batch: list[Waiting]) -> Feeds:
    if len(batch) == 1:
        return batch[0].feeds
    return {
        name: np.concatenate([waiting.feeds[name] for waiting in batch]) for name in batch[0].feeds
    }


def _splits(results: Arrays, rows: int) -> bool:
    """Whether each output has one row per row of the inputs."""
    return all(array.ndim > 0 and array.shape[0] == rows for array in results)


def _deliver(batch: list[Waiting], rows: int, results: Arrays) -> None:
    if len(batch) == 1:
        batch[0].answer(results)
        return
    if not _splits(results, rows):
        for waiting in batch:
            waiting.fail(ModelFailed(_DO_NOT_SPLIT))
        return
    start = 0
    for waiting in batch:
        end = start + waiting.rows
        waiting.answer([array[start:end] for array in results])
        start = end
