"""Joining requests: who shares a run, who waits, who is refused, who leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from optimizers.contract.errors import RunFailed, SessionClosed
from optimizers.contract.runtime import Feeds
from server.batcher import Batcher, BatchPolicy, Inline
from server.errors import DeadlineExceeded, ModelFailed, Overloaded

Arrays = list[NDArray[Any]]


class HandRunner:
    """A session whose runs end when the test says so; doubles its input."""

    def __init__(self) -> None:
        self.started: list[tuple[NDArray[Any], Future[Arrays]]] = []
        self.most_at_once = 0
        self.is_closed = False

    @property
    def under_way(self) -> int:
        return sum(not run.done() for _, run in self.started)

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> Arrays:
        array = feeds["x"]
        if (array < 0).any():
            raise RunFailed("negative")
        return [array * 2]

    def submit(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> Future[Arrays]:
        if self.is_closed:
            raise SessionClosed("closed")
        run: Future[Arrays] = Future()
        self.started.append((feeds["x"], run))
        self.most_at_once = max(self.most_at_once, self.under_way)
        return run

    def end(self, index: int) -> None:
        array, run = self.started[index]
        try:
            run.set_result(self.run({"x": array}))
        except RunFailed as error:
            run.set_exception(error)

    @property
    def rows(self) -> list[int]:
        return [len(array) for array, _ in self.started]


class Notebook:
    """Remembers what the batcher reports."""

    def __init__(self) -> None:
        self.runs: list[int] = []
        self.reasons: list[str] = []
        self.depth = 0

    def ran(self, rows: int, queued_s: Sequence[float], compute_s: float) -> None:
        self.runs.append(rows)

    def refused(self, reason: str) -> None:
        self.reasons.append(reason)

    def queue_changed(self, waiting: int) -> None:
        self.depth = waiting


class Bench:
    """A batcher with its surroundings in the test's hand."""

    def __init__(self, **policy: Any) -> None:
        defaults = {"lanes": 1, "max_batch": 8, "max_queue_items": 100, "max_queue_bytes": 10**6}
        self.runner, self.notebook, self.now = HandRunner(), Notebook(), 0.0
        self.batcher = Batcher(
            self.runner, BatchPolicy(**{**defaults, **policy}), self.notebook, lambda: self.now
        )

    def ask(
        self, value: float, rows: int = 1, width: int = 1, deadline: float | None = None
    ) -> asyncio.Task[Arrays]:
        feeds = {"x": np.full((rows, width), value)}
        return asyncio.create_task(self.batcher.infer(feeds, rows, ("y",), deadline))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_arrives_together_is_joined_and_given_back_to_its_askers() -> None:
    bench = Bench()
    asked = [bench.ask(value, rows) for value, rows in ((1, 1), (2, 2), (3, 1))]
    await settle()
    assert bench.runner.rows == [4]
    bench.runner.end(0)
    answers = [await one for one in asked]
    assert [answer[0].tolist() for answer in answers] == [[[2.0]], [[4.0], [4.0]], [[6.0]]]


async def test_the_next_batch_fills_while_the_lane_is_busy_and_leaves_at_once() -> None:
    bench = Bench()
    first = bench.ask(1)
    await settle()
    waiting = [bench.ask(value) for value in (2, 3, 4)]
    await settle()
    assert (bench.runner.rows, bench.notebook.depth) == ([1], 3)
    bench.runner.end(0)
    await first
    await settle()
    assert (bench.runner.rows, bench.notebook.depth) == ([1, 3], 0)
    bench.runner.end(1)
    await asyncio.gather(*waiting)
    assert bench.notebook.runs == [1, 3]


async def test_a_batch_never_exceeds_its_most_rows_and_lanes_run_side_by_side() -> None:
    bench = Bench(lanes=2, max_batch=4)
    asked = [bench.ask(value, 3) for value in range(3)]
    await settle()
    assert bench.runner.rows == [3, 3]
    for index in range(3):
        bench.runner.end(index)
        await settle()
    assert bench.runner.rows == [3, 3, 3]
    await asyncio.gather(*asked)


async def test_other_shapes_do_not_share_a_run_and_are_not_overtaken_for_ever() -> None:
    bench = Bench()
    asked = [bench.ask(1, width=1), bench.ask(2, width=2), bench.ask(3, width=1)]
    await settle()
    assert bench.runner.started[0][0].tolist() == [[1.0], [3.0]]
    bench.runner.end(0)
    await settle()
    assert bench.runner.started[1][0].shape == (1, 2)
    bench.runner.end(1)
    await asyncio.gather(*asked)


async def test_a_full_queue_refuses_with_its_bound() -> None:
    bench = Bench(max_queue_items=2)
    asked = [bench.ask(1)]
    await settle()
    asked += [bench.ask(2), bench.ask(3)]
    await settle()
    with pytest.raises(Overloaded, match="2 requests are waiting; try again later"):
        await bench.ask(4)
    assert bench.notebook.reasons == ["queue_items"]
    bench.runner.end(0)
    await settle()
    bench.runner.end(1)
    await asyncio.gather(*asked)


async def test_bytes_are_bounded_but_one_large_request_is_always_taken() -> None:
    bench = Bench(max_queue_bytes=100)
    busy = bench.ask(0)
    await settle()
    large = bench.ask(1, width=1000)
    await settle()
    with pytest.raises(Overloaded, match="8000 bytes are waiting and at most 100 may"):
        await bench.ask(2)
    for index in range(2):
        bench.runner.end(index)
        await settle()
    await asyncio.gather(busy, large)


async def test_a_deadline_that_passed_drops_the_request_before_it_runs() -> None:
    bench = Bench()
    busy, late, patient = bench.ask(1), bench.ask(2, deadline=5), bench.ask(3, deadline=50)
    await settle()
    assert bench.runner.rows == [3]
    bench.runner.end(0)
    await asyncio.gather(busy, late, patient)
    busy, late, patient = bench.ask(1, rows=8), bench.ask(2, deadline=5), bench.ask(3, deadline=50)
    await settle()
    bench.now = 10
    bench.runner.end(1)
    await settle()
    with pytest.raises(DeadlineExceeded):
        await late
    assert bench.runner.started[2][0].tolist() == [[3.0]]
    assert bench.notebook.reasons == ["deadline"]
    bench.runner.end(2)
    await asyncio.gather(busy, patient)


async def test_a_caller_that_goes_away_leaves_the_queue() -> None:
    bench = Bench()
    busy = bench.ask(1)
    await settle()
    gone, patient = bench.ask(2), bench.ask(3)
    await settle()
    gone.cancel()
    await settle()
    assert (bench.notebook.depth, bench.notebook.reasons) == (1, ["cancelled"])
    bench.runner.end(0)
    await settle()
    assert bench.runner.started[1][0].tolist() == [[3.0]]
    bench.runner.end(1)
    await asyncio.gather(busy, patient)


async def test_a_bad_request_does_not_fail_those_it_was_joined_with() -> None:
    bench = Bench()
    good, bad, other = bench.ask(1), bench.ask(-1), bench.ask(3)
    await settle()
    for index in range(4):
        bench.runner.end(index)
        await settle()
    assert (await good)[0].tolist() == [[2.0]]
    assert (await other)[0].tolist() == [[6.0]]
    with pytest.raises(RunFailed, match="negative"):
        await bad


async def test_a_failed_batch_keeps_to_its_lanes_and_to_the_queue_bounds() -> None:
    bench = Bench(max_queue_items=20)
    asked = [bench.ask(-1 if index == 3 else index) for index in range(8)]
    await settle()
    waiting = [bench.ask(index) for index in range(8)]
    await settle()
    bench.runner.end(0)
    await settle()
    assert (bench.runner.under_way, bench.notebook.depth) == (1, 15)
    while bench.runner.under_way:
        bench.runner.end(len(bench.runner.started) - 1)
        await settle()
    assert bench.runner.most_at_once == 1
    answers = await asyncio.gather(*asked, *waiting, return_exceptions=True)
    assert [isinstance(answer, RunFailed) for answer in answers].count(True) == 1


async def test_a_deadline_answers_while_the_lane_is_still_busy() -> None:
    bench = Bench()
    busy = bench.ask(1)
    await settle()
    with pytest.raises(DeadlineExceeded):
        await bench.ask(2, deadline=0.01)
    assert (bench.notebook.reasons, bench.notebook.depth) == (["deadline"], 0)
    bench.runner.end(0)
    await busy


async def test_a_run_that_cannot_be_started_fails_its_callers_and_frees_its_lane() -> None:
    bench = Bench()
    bench.runner.is_closed = True
    with pytest.raises(SessionClosed):
        await bench.ask(1)
    bench.runner.is_closed = False
    good = bench.ask(2)
    await settle()
    bench.runner.end(0)
    assert (await good)[0].tolist() == [[4.0]]
    await bench.batcher.drain()


async def test_draining_waits_for_what_waits_and_what_runs() -> None:
    bench = Bench()
    running = bench.ask(1, rows=8)
    waiting = bench.ask(2)
    await settle()
    drained = asyncio.create_task(bench.batcher.drain())
    for index in range(2):
        await settle()
        assert not drained.done()
        bench.runner.end(index)
    await asyncio.gather(running, waiting, drained)


async def test_texts_count_with_their_length() -> None:
    bench = Bench(max_queue_bytes=1000)
    busy = bench.ask(0)
    await settle()
    texts = np.array(["x" * 600], dtype=np.object_)
    long = asyncio.create_task(bench.batcher.infer({"x": texts}, 1, ("y",)))
    await settle()
    with pytest.raises(Overloaded, match="at most 1000 may"):
        await bench.batcher.infer({"x": texts}, 1, ("y",))
    long.cancel()
    bench.runner.end(0)
    await busy


async def test_inputs_of_unequal_rows_share_no_run() -> None:
    bench = Bench()
    unequal = {"x": np.ones((1, 1)), "z": np.ones((3, 1))}
    asked = [asyncio.create_task(bench.batcher.infer(unequal, 1, ("y",))) for _ in range(2)]
    await settle()
    assert bench.runner.rows == [1]
    for index in range(2):
        bench.runner.end(index)
        await settle()
    await asyncio.gather(*asked)


async def test_what_is_larger_than_was_timed_does_not_run_inline() -> None:
    bench = Bench(inline=Inline(rows=2, row_bytes=8))
    many, wide = bench.ask(1, rows=3), bench.ask(2, width=2)
    await settle()
    assert bench.runner.rows == [3]
    for index in range(2):
        bench.runner.end(index)
        await settle()
    await asyncio.gather(many, wide)


async def test_a_tiny_model_runs_inline_and_still_joins() -> None:
    bench = Bench(inline=Inline(rows=8, row_bytes=8))
    asked = [bench.ask(value) for value in (1, 2)]
    assert [(await one)[0].tolist() for one in asked] == [[[2.0]], [[4.0]]]
    assert (bench.runner.started, bench.notebook.runs) == ([], [2])
    with pytest.raises(RunFailed):
        await bench.ask(-1)


async def test_outputs_without_one_row_per_input_row_are_an_error_and_not_a_wrong_answer() -> None:
    bench = Bench()
    asked = [bench.ask(1), bench.ask(2)]
    await settle()
    bench.runner.started[0][1].set_result([np.zeros((1, 1))])
    for one in asked:
        with pytest.raises(ModelFailed, match="one row per input row"):
            await one
