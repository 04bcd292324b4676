"""Whatever is asked, and whenever: everybody gets their own rows, once, in fair order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as some
from numpy.typing import NDArray

from optimizers.contract.errors import RunFailed
from optimizers.contract.runtime import Arrays, Feeds, Over
from server.batcher import Batcher
from server.cost import Costs, Measured
from server.errors import DeadlineExceeded, InvalidRequest, Overloaded, QueueTimeout
from server.policy import BatchPolicy
from server.room import Room
from server.triton_batching import Batching, QueuePolicy
from server.waiting import LAST_LEVEL, Terms
from tests.support.virtual_time import VirtualLoop, run_in_virtual_time

ROW_S = 0.001
MOST_ROWS = 16
"""Rows of a request are numbered from `MOST_ROWS` times its own number on."""
AT_ONCE_S = 1e-6
"""Two moments so close together count as one: either may have come first."""


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A request, and what becomes of its caller."""

    after_s: float = 0.0
    rows: int = 1
    width: int = 1
    outputs: tuple[str, ...] = ("y",)
    deadline_s: float | None = None
    timeout_s: float = 0.0
    priority: int = 0
    leaves_s: float | None = None
    is_bad: bool = False
    is_uneven: bool = False


@dataclass(frozen=True, kw_only=True)
class Case:
    """A machine, its rules and everything that is asked of it."""

    asks: tuple[Ask, ...]
    lanes: int = 1
    max_batch: int = 8
    max_items: int = 1000
    max_bytes: int = 10**9
    inline_s: float = 0.0
    wide_threads: int = 0
    fixed_s: float = ROW_S
    row_s: float = 0.0
    believed: float = 1.0
    """What a run is thought to cost at first, over what it does cost."""
    batching: Batching = field(default_factory=Batching)


@dataclass(slots=True)
class Caller:
    """What is known of one request from outside."""

    number: int
    ask: Ask
    since: float
    deadline: float | None = None
    waits: bool = True
    back_at: float = -1.0
    """When a run failed that it shared; it waits again a moment later."""
    ran: int = 0
    gone_at: float | None = None


class Run:
    """A run that ends when its time has come, or soon after nobody wants it."""

    def __init__(self, machine: Machine, end: Any) -> None:
        self.is_over = False
        self._machine = machine
        self._end = end

    def terminate(self) -> None:
        self._machine.loop.call_soon(self._end, RunFailed("ended", terminated=True))


def _may_share(one: Caller, other: Caller) -> bool:
    """Whether two callers could share a run; what came back from a failed one runs alone."""
    alike = (one.ask.width, one.ask.outputs) == (other.ask.width, other.ask.outputs)
    return alike and one.ask.priority == other.ask.priority and one.back_at < 0 > other.back_at


class Machine:
    """Computes in virtual time, and sees to it that what it is given is what it should be."""

    def __init__(self, case: Case, loop: VirtualLoop) -> None:
        self.case = case
        self.loop = loop
        self.callers: dict[int, Caller] = {}
        self.wide_threads = case.wide_threads
        self.busy_lanes = self.most_busy_lanes = 0
        self.wrongs: list[AssertionError] = []
        """What should not have been; raised here, it would count as a failed run."""

    def seconds(self, rows: int) -> float:
        return self.case.fixed_s + rows * self.case.row_s

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> Arrays:
        batch = self._checked(feeds, outputs)
        self.loop.now += self.seconds(len(feeds["x"]))
        return self._ends(batch, feeds, outputs or ())

    def start(
        self, feeds: Feeds, outputs: Sequence[str] | None, over: Over, *, wide: bool = False
    ) -> Run:
        batch = self._checked(feeds, outputs)
        lanes = self.case.lanes if wide else 1
        self.busy_lanes += lanes
        self.most_busy_lanes = max(self.most_busy_lanes, self.busy_lanes)

        def end(error: RunFailed | None = None) -> None:
            if run.is_over:
                return
            run.is_over = True
            self.busy_lanes -= lanes
            try:
                if error is not None:
                    raise error
                results = self._ends(batch, feeds, outputs or ())
            except RunFailed as failure:
                over(None, failure)
            else:
                over(results, None)

        run = Run(self, end)
        speed = 2.0 if wide else 1.0
        self.loop.call_later(self.seconds(len(feeds["x"])) / speed, end)
        return run

    def _checked(self, feeds: Feeds, outputs: Sequence[str] | None) -> list[Caller]:
        try:
            return self._begins(feeds, outputs)
        except AssertionError as wrong:
            self.wrongs.append(wrong)
            raise

    def _begins(self, feeds: Feeds, outputs: Sequence[str] | None) -> list[Caller]:
        numbers = dict.fromkeys(int(row[0]) // MOST_ROWS for row in feeds["x"])
        batch = [self.callers[number] for number in numbers]
        rows = [number for one in batch for number in row_numbers(one.number, one.ask.rows)]
        assert feeds["x"][:, 0].tolist() == rows, "rows were torn apart"
        assert len(batch) == 1 or len(rows) <= self.case.max_batch, "more rows than may be joined"
        now = self.loop.time()
        for one in batch:
            assert one.waits, "a request runs that did not wait"
            assert tuple(outputs or ()) == one.ask.outputs
            assert one.deadline is None or one.deadline > now, "expired work runs"
            assert one.gone_at is None or one.gone_at > now - AT_ONCE_S, "nobody waits for this"
            if one.ask.timeout_s and not one.ran and not self._may_stay_longer():
                assert now <= one.since + one.ask.timeout_s + AT_ONCE_S, "it waited too long"
        self._require_fair(batch, now)
        for one in batch:
            one.waits = False
            one.ran += 1
        return batch

    def _may_stay_longer(self) -> bool:
        """Whether a time-out may find its request running or not leave at all."""
        batching = self.case.batching
        return batching.default_policy.delays or self.case.inline_s > 0

    def _require_fair(self, batch: list[Caller], now: float) -> None:
        """The oldest of the highest priority leads; so nobody is overtaken once they are next.

        What waits for company by `max_delay_s` lets others of another shape pass.
        """
        level, since = self._level(batch[0], now), batch[0].since
        if level is None:
            return
        for one in self.callers.values():
            its_level = self._level(one, now)
            is_over = one.deadline is not None and one.deadline <= now + AT_ONCE_S
            is_away = not one.waits or now < one.back_at + AT_ONCE_S
            if is_away or its_level is None or is_over or one.gone_at is not None:
                continue
            if now < one.since + self.case.batching.max_delay_s and not _may_share(one, batch[0]):
                continue
            assert level <= its_level, "a lower priority runs first"
            if level == its_level != LAST_LEVEL:
                assert since <= one.since, "a younger request leads a run"

    def _level(self, one: Caller, now: float) -> int | None:
        """Where a request stands; None where two answers are right."""
        batching = self.case.batching
        level = 0
        if batching.priority_levels:
            level = one.ask.priority or batching.default_priority
        timeout_s = one.ask.timeout_s or batching.default_policy.timeout_s
        if not timeout_s or now < one.since + timeout_s - AT_ONCE_S:
            return level
        if not batching.default_policy.delays or one.ran or self.case.inline_s:
            return None
        return LAST_LEVEL if now > one.since + timeout_s + AT_ONCE_S else None

    def _ends(self, batch: list[Caller], feeds: Feeds, outputs: Sequence[str]) -> Arrays:
        if any(one.ask.is_bad for one in batch):
            for one in batch:
                one.waits = len(batch) > 1  # each gets another run of its own
                one.back_at = self.loop.time()
            raise RunFailed("one of these rows is bad")
        return [computed(feeds["x"], feeds["texts"], name) for name in outputs]


def computed(rows: NDArray[Any], texts: NDArray[Any], name: str) -> NDArray[Any]:
    """What the model makes of its inputs: something that tells every row from every other."""
    results: dict[str, NDArray[Any]] = {"y": 2 * rows, "z": -rows.sum(axis=1), "texts": texts}
    return results[name]


def row_numbers(number: int, rows: int) -> list[int]:
    return list(range(MOST_ROWS * number, MOST_ROWS * number + rows))


class Notebook:
    """Remembers what the batcher reports."""

    def __init__(self) -> None:
        self.ran_rows = 0
        self.depth = 0

    def ran(self, rows: int, queued_s: Sequence[float], compute_s: float) -> None:
        assert min(queued_s) >= 0.0
        self.ran_rows += rows

    def refused(self, reason: str) -> None: ...

    def queue_changed(self, waiting: int) -> None:
        assert waiting >= 0
        self.depth = waiting


async def play(case: Case) -> list[Any]:
    """Ask everything that the case asks; what came of each request."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    machine, notebook, room = Machine(case, loop), Notebook(), Room(10_000, 10**9)
    policy = BatchPolicy(
        lanes=case.lanes,
        max_batch=case.max_batch,
        max_queue_items=case.max_items,
        max_queue_bytes=case.max_bytes,
        inline_s=case.inline_s,
        batching=case.batching,
    )
    powers = [1 << power for power in range(case.max_batch.bit_length())]
    measured = Measured(
        seconds={rows: case.believed * machine.seconds(rows) for rows in powers},
        row_bytes=72,
        shapes=((1,), ()),
    )
    costs = Costs(measured, case.max_batch, 0.5 if case.wide_threads else 1.0)
    batcher = Batcher(machine, policy, costs, notebook, room, loop.time)

    async def one(number: int, ask: Ask) -> Arrays:
        rows = np.array(row_numbers(number, ask.rows), np.float64)
        feeds: Feeds = {
            "x": np.repeat(rows[:, np.newaxis], ask.width, axis=1),
            "texts": np.array([f"{row:g}" for row in rows[: 1 if ask.is_uneven else None]], object),
        }
        now = loop.time()
        deadline = None if ask.deadline_s is None else now + ask.deadline_s
        caller = machine.callers[number] = Caller(number, ask, now, deadline)
        try:
            answer = await batcher.infer(
                feeds, ask.rows, ask.outputs, Terms(deadline, ask.timeout_s, ask.priority)
            )
            for array, name in zip(answer, ask.outputs, strict=True):
                np.testing.assert_array_equal(array, computed(feeds["x"], feeds["texts"], name))
            return answer
        except BaseException as error:
            require_reason(error, caller, case, loop.time())
            raise
        finally:
            caller.waits = False

    tasks = []
    for number, ask in enumerate(case.asks):
        if ask.after_s:
            await asyncio.sleep(ask.after_s)
        tasks.append(asyncio.create_task(one(number, ask)))
        if ask.leaves_s is not None:
            loop.call_later(ask.leaves_s, leave, machine, number, tasks[-1])
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    await batcher.drain()
    for wrong in (*machine.wrongs, *outcomes):
        if isinstance(wrong, AssertionError):
            raise wrong
    assert machine.most_busy_lanes <= case.lanes, "more runs than lanes"
    line = batcher._line
    assert (line.items, line.size_bytes, line.cost_s) == (0, 0, 0.0)
    assert (room.items, room.size_bytes, notebook.depth) == (0, 0, 0)
    assert not any(batcher._admission._by_level.values())
    assert (batcher.is_idle, batcher._free_lanes, machine.busy_lanes) == (True, case.lanes, 0)
    return outcomes


def leave(machine: Machine, number: int, task: asyncio.Task[Arrays]) -> None:
    """The caller goes away, if it is still there."""
    if number in machine.callers and not task.done():
        machine.callers[number].gone_at = machine.loop.time()
        task.cancel()


def require_reason(error: BaseException, caller: Caller, case: Case, now: float) -> None:
    """Nobody is refused without a reason that lies in what they asked."""
    ask = caller.ask
    match error:
        case asyncio.CancelledError():
            assert caller.gone_at is not None
        case QueueTimeout():
            longest = ask.timeout_s or case.batching.default_policy.timeout_s
            assert longest
            assert now >= caller.since + longest - AT_ONCE_S
        case DeadlineExceeded():
            assert caller.deadline is not None
            assert now >= caller.deadline - AT_ONCE_S
        case RunFailed():
            assert ask.is_bad
        case InvalidRequest():
            assert ask.priority > case.batching.priority_levels > 0
        case Overloaded():
            assert (error.reason == "would_be_late") <= (caller.deadline is not None)
            assert now == caller.since, "refusing comes first"
        case _:
            raise AssertionError(f"nobody expects {error!r}") from error


def moments(most_s: float) -> some.SearchStrategy[float]:
    """Times that often coincide."""
    return some.integers(0, round(most_s / (ROW_S / 4))).map(lambda steps: steps * ROW_S / 4)


def some_asks(*, equal: bool = False) -> some.SearchStrategy[Ask]:
    """Requests; equal ones differ only in what they carry and when they come."""
    rare_s = some.none() if equal else some.none() | some.none() | moments(20 * ROW_S)
    return some.builds(
        Ask,
        after_s=some.sampled_from([0.0] * 5 + [ROW_S / 4, 3 * ROW_S]),
        rows=some.sampled_from([1, 1, 1, 2, 3, 6]),
        width=some.sampled_from([1] * 5 + [2]),
        outputs=some.sampled_from([("y",)] * 5 + [("z", "texts")]),
        deadline_s=rare_s,
        timeout_s=some.just(0.0) if equal else some.just(0.0) | some.just(0.0) | moments(8 * ROW_S),
        priority=some.sampled_from([0] if equal else [0, 0, 0, 1, 2, 3, 4]),
        leaves_s=rare_s,
        is_bad=some.sampled_from([False] if equal else [False] * 9 + [True]),
        is_uneven=some.sampled_from([False] if equal else [False] * 9 + [True]),
    )


BATCHINGS = (
    Batching(),
    Batching(priority_levels=3, default_priority=2),
    Batching(max_delay_s=3 * ROW_S, preferred=(2, 4)),
    Batching(max_delay_s=2 * ROW_S, priority_levels=2, default_priority=1),
    Batching(default_policy=QueuePolicy(timeout_s=5 * ROW_S)),
    Batching(default_policy=QueuePolicy(timeout_s=2 * ROW_S, delays=True)),
    Batching(priority_levels=2, default_priority=2, policies={1: QueuePolicy(max_items=2)}),
)


def some_cases(asks: some.SearchStrategy[Ask], *batchings: Batching) -> some.SearchStrategy[Case]:
    return some.builds(
        Case,
        asks=some.lists(asks, min_size=10, max_size=30).map(tuple),
        lanes=some.sampled_from([1, 1, 2, 3]),
        max_batch=some.sampled_from([8, 4, 4, 2, 1, 6, 12]),
        max_items=some.sampled_from([1000, 3]),
        max_bytes=some.sampled_from([10**9, 600]),
        inline_s=some.sampled_from([0.0, 0.0, 1.5 * ROW_S]),
        wide_threads=some.sampled_from([0, 2]),
        fixed_s=some.sampled_from([ROW_S, ROW_S / 10]),
        row_s=some.sampled_from([0.0, ROW_S / 10, 0.0, ROW_S]),
        believed=some.sampled_from([0.1, 1.0, 10.0]),
        batching=some.sampled_from(batchings),
    )


@settings(max_examples=250, deadline=None, derandomize=True)
@given(case=some_cases(some_asks(), *BATCHINGS))
def test_everybody_gets_their_own_rows_or_a_reason_and_nothing_is_left(case: Case) -> None:
    run_in_virtual_time(play(case))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(case=some_cases(some_asks(equal=True), Batching()))
def test_who_asks_for_nothing_special_is_refused_only_when_the_line_is_full(case: Case) -> None:
    outcomes = run_in_virtual_time(play(case))
    refused = [one for one in outcomes if isinstance(one, BaseException)]
    assert all(isinstance(one, Overloaded) for one in refused)
    if case.max_items > len(case.asks) and case.max_bytes > 10**6:
        assert not refused


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    deadlines_s=some.lists(
        some.none() | some.integers(5, 40).map(lambda runs: runs * ROW_S), min_size=1, max_size=7
    )
)
def test_a_wait_for_company_costs_nobody_their_deadline(deadlines_s: list[float | None]) -> None:
    asks = tuple(Ask(after_s=ROW_S / 4, deadline_s=ends_s) for ends_s in deadlines_s)
    case = Case(asks=asks, batching=Batching(max_delay_s=30.0))
    assert all(isinstance(one, list) for one in run_in_virtual_time(play(case)))


def test_a_wait_for_company_ends_for_whoever_is_more_urgent() -> None:
    levels = Batching(max_delay_s=30.0, priority_levels=2, default_priority=2)
    case = Case(asks=(Ask(), Ask(priority=1, deadline_s=20 * ROW_S)), batching=levels)
    assert all(isinstance(one, list) for one in run_in_virtual_time(play(case)))
