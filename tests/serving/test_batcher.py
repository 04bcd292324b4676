"""Joining requests: who shares a run, who waits, who is refused, who leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from optimizers.contract.errors import RunFailed, SessionClosed
from optimizers.contract.runtime import Arrays, Feeds, Over
from server.batcher import Batcher
from server.cost import CostCurve, Costs, Measured
from server.errors import DeadlineExceeded, InvalidRequest, ModelFailed, Overloaded, QueueTimeout
from server.policy import BatchPolicy
from server.room import Room
from server.triton_batching import Batching, QueuePolicy
from server.waiting import Alike, Terms
from tests.support.virtual_time import run_in_virtual_time

RUN_S = 0.001
FLAT = {1: RUN_S, 2: RUN_S, 4: RUN_S, 8: RUN_S}
"""More rows cost nothing: joining always pays."""

PROPORTIONAL = {1: RUN_S, 2: 2 * RUN_S, 4: 4 * RUN_S, 8: 8 * RUN_S}
"""A row costs as much in company as alone."""


class HandRun:
    """A run whose end is in the test's hand."""

    def __init__(self, over: Over, wide: bool) -> None:
        self.over = over
        self.wide = wide
        self.is_over = False
        self.is_terminated = False

    def end(self, results: Arrays | None, error: Exception | None = None) -> None:
        self.is_over = True
        self.over(results, error)

    def terminate(self) -> None:
        self.is_terminated = True


class HandRunner:
    """A session whose runs end when the test says so; doubles its input."""

    def __init__(self, wide_threads: int = 0) -> None:
        self.wide_threads = wide_threads
        self.started: list[tuple[NDArray[Any], HandRun]] = []
        self.most_at_once = 0
        self.is_closed = False

    @property
    def under_way(self) -> int:
        return sum(not run.is_over for _, run in self.started)

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> Arrays:
        array = feeds["x"]
        if (array < 0).any():
            raise RunFailed("negative")
        return [array * 2]

    def start(
        self, feeds: Feeds, outputs: Sequence[str] | None, over: Over, *, wide: bool = False
    ) -> HandRun:
        if self.is_closed:
            raise SessionClosed("closed")
        run = HandRun(over, wide)
        self.started.append((feeds["x"], run))
        self.most_at_once = max(self.most_at_once, self.under_way)
        return run

    def end(self, index: int) -> None:
        array, run = self.started[index]
        try:
            results = self.run({"x": array})
        except RunFailed as error:
            run.end(None, error)
        else:
            run.end(results)

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

    def __init__(
        self,
        *,
        seconds: Mapping[int, float] = FLAT,
        wide_threads: int = 0,
        room: Room | None = None,
        **policy: Any,
    ) -> None:
        defaults = {"lanes": 1, "max_batch": 8, "max_queue_items": 100, "max_queue_bytes": 10**6}
        settings = BatchPolicy(**{**defaults, **policy})
        self.runner, self.notebook, self.now = HandRunner(wide_threads), Notebook(), 0.0
        self.room = room or Room(1000, 10**9)
        measured = Measured(seconds=seconds, row_bytes=8, shapes=((1,),))
        self.costs = Costs(measured, settings.max_batch, 0.5 if wide_threads else 1.0)
        self.batcher = Batcher(
            self.runner, settings, self.costs, self.notebook, self.room, lambda: self.now
        )

    def ask(
        self,
        value: float,
        rows: int = 1,
        width: int = 1,
        deadline: float | None = None,
        **wishes: Any,
    ) -> asyncio.Task[Arrays]:
        feeds = {"x": np.full((rows, width), value)}
        terms = Terms(deadline, **wishes)
        return asyncio.create_task(self.batcher.infer(feeds, rows, ("y",), terms))

    async def end_all(self) -> None:
        """End every run, those that follow included."""
        await settle()
        while self.runner.under_way:
            for index, (_, run) in enumerate(self.runner.started):
                if not run.is_over:
                    self.runner.end(index)
            await settle()


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


async def test_a_shape_that_never_ran_does_not_run_inline() -> None:
    bench = Bench(inline_s=2 * RUN_S)
    wide = bench.ask(2, width=2)
    await settle()
    assert bench.runner.rows == [1]
    bench.runner.end(0)
    await wide
    assert (await bench.ask(3, width=2))[0].tolist() == [[6.0, 6.0]]
    assert bench.runner.rows == [1], "the second one was known to be cheap"


async def test_what_would_hold_up_the_loop_does_not_run_inline() -> None:
    bench = Bench(seconds=PROPORTIONAL, inline_s=2 * RUN_S)
    many = bench.ask(1, rows=3)
    await settle()
    assert bench.runner.rows == [3]
    bench.runner.end(0)
    await many


async def test_a_tiny_model_runs_inline_and_still_joins() -> None:
    bench = Bench(inline_s=RUN_S)
    asked = [bench.ask(value) for value in (1, 2)]
    assert [(await one)[0].tolist() for one in asked] == [[[2.0]], [[4.0]]]
    assert (bench.runner.started, bench.notebook.runs) == ([], [2])
    with pytest.raises(RunFailed):
        await bench.ask(-1)


async def test_what_came_together_may_run_at_once_if_that_holds_up_nobody() -> None:
    bench = Bench(inline_s=RUN_S)
    batcher, alike = bench.batcher, Alike(1, ((1,),), 8, ("y",))
    assert batcher.most_at_once(alike, 3) == 3
    assert batcher.most_at_once(alike, 50) == 8, "no more than a run may have"
    assert batcher.most_at_once(alike._replace(rows=3), 50) == 2
    assert batcher.most_at_once(alike._replace(shapes=((2,),)), 3) == 0, "it never ran"
    assert batcher.most_at_once(alike._replace(shapes=None), 3) == 0
    assert Bench(seconds=PROPORTIONAL, inline_s=RUN_S / 2).batcher.most_at_once(alike, 3) == 0
    values = np.array([[1.0], [2.0], [3.0]])
    assert batcher.infer_at_once({"x": values}, alike, 3)[0].tolist() == [[2.0], [4.0], [6.0]]
    assert (bench.runner.started, bench.notebook.runs, batcher.is_idle) == ([], [3], True)
    with pytest.raises(RunFailed):
        batcher.infer_at_once({"x": -values}, alike, 3)


async def test_runs_at_once_grow_to_where_rows_are_cheapest_whatever_was_believed() -> None:
    """As on lanes: now and then twice as many rows are tried, and they are found to be cheap."""
    bench = Bench(seconds={1: RUN_S, 2: RUN_S, 4: 3 * RUN_S, 8: 9 * RUN_S}, inline_s=20 * RUN_S)
    batcher, alike = bench.batcher, Alike(1, ((1,),), 8, ("y",))
    curve = bench.costs.usual
    assert batcher.most_at_once(alike, 8) == 2
    for _ in range(2000):
        curve.observe(batcher.most_at_once(alike, 8), RUN_S)
    assert curve.knee == 8
    assert batcher.most_at_once(alike, 8) in {4, 8}


async def test_outputs_that_do_not_split_are_tried_at_once_only_once() -> None:
    bench = Bench(inline_s=RUN_S)
    batcher, alike = bench.batcher, Alike(1, ((1,),), 8, ("y",))
    three = {"x": np.ones((3, 1))}
    with pytest.raises(ModelFailed):
        batcher.infer_at_once(three, alike._replace(rows=2), 2)
    assert (bench.notebook.runs, batcher.most_at_once(alike, 3)) == ([], 0)


async def test_nobody_runs_at_once_before_those_who_wait() -> None:
    bench = Bench(inline_s=RUN_S)
    alike = Alike(1, ((1,),), 8, ("y",))
    waiting = bench.ask(1)
    await asyncio.sleep(0)
    assert bench.batcher.waiting
    assert bench.batcher.most_at_once(alike, 3) == 0
    await waiting
    assert bench.batcher.most_at_once(alike, 3) == 3
    busy = bench.ask(1, width=2)  # a shape that takes the only lane
    await settle()
    assert bench.batcher.most_at_once(alike, 3) == 0
    bench.runner.end(0)
    await busy


async def test_one_by_itself_runs_at_once_only_where_the_last_turn_had_one_too() -> None:
    bench = Bench(inline_s=RUN_S)
    batcher, alike, one = bench.batcher, Alike(1, ((1,),), 8, ("y",)), {"x": np.ones((1, 1))}
    assert batcher.most_at_once(alike, 1) == 0
    await bench.ask(1)
    assert batcher.most_at_once(alike, 1) == 1
    batcher.infer_at_once(one, alike, 1)
    assert batcher.most_at_once(alike, 1) == 0, "it was not alone in its turn"
    await asyncio.sleep(0)
    assert batcher.most_at_once(alike, 1) == 1
    batcher.infer_at_once({"x": np.ones((2, 1))}, alike, 2)
    await asyncio.sleep(0)
    assert batcher.most_at_once(alike, 1) == 0


async def test_outputs_without_one_row_per_input_row_are_an_error_and_not_a_wrong_answer() -> None:
    bench = Bench()
    asked = [bench.ask(1), bench.ask(2)]
    await settle()
    bench.runner.started[0][1].end([np.zeros((1, 1))])
    for one in asked:
        with pytest.raises(ModelFailed, match="one row per input row"):
            await one


def test_no_run_ever_teaches_that_another_takes_no_time() -> None:
    curve = CostCurve({1: 1e-5, 2: 1e-5, 4: 1e-5, 8: 1e-3}, 8, is_observed=True)
    for _ in range(400):
        curve.observe(5, 1e-6)
    assert all(curve.seconds(rows) > 0 for rows in range(1, 9))
    assert curve.knee >= 1


async def test_rows_that_get_no_cheaper_are_not_joined() -> None:
    bench = Bench(seconds=PROPORTIONAL)
    asked = [bench.ask(value) for value in range(4)]
    await bench.end_all()
    await asyncio.gather(*asked)
    assert bench.runner.rows == [1, 1, 1, 1]


async def test_free_lanes_share_what_waits() -> None:
    bench = Bench(lanes=2)
    asked = [bench.ask(value) for value in range(6)]
    await bench.end_all()
    await asyncio.gather(*asked)
    assert bench.runner.rows == [3, 3]


async def test_a_batch_does_not_grow_beyond_the_deadline_of_its_first() -> None:
    seconds = {1: 1.0, 2: 1.1, 4: 1.3, 8: 2.0}
    bench = Bench(seconds=seconds)
    asked = [bench.ask(value, deadline=1.2) for value in range(4)]
    await settle()
    assert bench.runner.rows == [2]
    await bench.end_all()
    await asyncio.gather(*asked)


async def test_who_cannot_be_answered_in_time_is_refused_early() -> None:
    bench = Bench(seconds={1: 1.0}, max_batch=1)
    asked = [bench.ask(1)]
    await settle()
    with pytest.raises(Overloaded, match="the caller waits 1"):
        await bench.ask(2, deadline=1.5)
    assert bench.notebook.reasons == ["would_be_late"]
    asked.append(bench.ask(3, deadline=2.5))
    await bench.end_all()
    await asyncio.gather(*asked)


async def test_nobody_is_refused_by_an_estimate_while_a_lane_is_free() -> None:
    bench = Bench(seconds={1: 1.0}, max_batch=1)
    asked = bench.ask(1, deadline=0.5)
    await bench.end_all()
    assert (await asked)[0].tolist() == [[2.0]]


async def test_a_wait_that_would_be_too_long_is_refused() -> None:
    bench = Bench(seconds={1: 1.0}, max_batch=1, max_queue_s=2.5)
    asked = [bench.ask(value) for value in range(3)]
    await settle()
    with pytest.raises(Overloaded, match=r"the wait would be about 3 s, at most 2\.5 s"):
        await bench.ask(4)
    assert bench.notebook.reasons == ["queue_time"]
    await bench.end_all()
    await asyncio.gather(*asked)


async def test_all_lines_together_are_bounded() -> None:
    room = Room(2, 10**6)
    one, other = Bench(room=room), Bench(room=room)
    asked = [one.ask(1), other.ask(1)]
    await settle()
    asked += [one.ask(2), other.ask(2)]
    await settle()
    with pytest.raises(Overloaded, match="2 requests are waiting for all models"):
        await other.ask(3)
    assert other.notebook.reasons == ["total_items"]
    for bench in (one, other):
        await bench.end_all()
    await asyncio.gather(*asked)
    assert (room.items, room.size_bytes) == (0, 0)


async def test_a_run_is_ended_when_its_last_caller_has_gone() -> None:
    bench = Bench()
    asked = [bench.ask(1), bench.ask(2)]
    await settle()
    run = bench.runner.started[0][1]
    asked[0].cancel()
    await settle()
    assert not run.is_terminated
    asked[1].cancel()
    await settle()
    assert run.is_terminated
    run.end(None, RunFailed("ended", terminated=True))
    await bench.batcher.drain()
    assert bench.runner.rows == [2], "what nobody waits for is not run again"


async def test_a_deadline_ends_the_run_it_passes_in() -> None:
    bench = Bench()
    asked = bench.ask(1, deadline=0.02)
    await settle()
    bench.now = 0.03
    with pytest.raises(DeadlineExceeded, match="while the model ran"):
        await asked
    assert bench.runner.started[0][1].is_terminated
    bench.runner.end(0)
    await bench.batcher.drain()


def test_runs_that_were_ended_teach_that_they_take_long() -> None:
    run_in_virtual_time(_teach_by_forty_runs_that_are_ended())


async def _teach_by_forty_runs_that_are_ended() -> None:
    bench = Bench(seconds={1: 0.1}, max_batch=1)
    for _ in range(40):
        asked = bench.ask(1, deadline=bench.now + 0.5)
        await settle()
        bench.now += 0.5
        with pytest.raises(DeadlineExceeded):
            await asked
        _, run = bench.runner.started[-1]
        run.end(None, RunFailed("ended", terminated=True))
        await settle()
    first = bench.ask(1)
    await settle()
    with pytest.raises(Overloaded, match="an answer would take about"):
        await bench.ask(2, deadline=bench.now + 0.6)
    await bench.end_all()
    await first


LEVELS = Batching(priority_levels=3, default_priority=2)


async def test_a_higher_priority_runs_first_and_the_default_lies_between() -> None:
    bench = Bench(max_batch=1, batching=LEVELS)
    asked = [bench.ask(0)]
    await settle()
    asked += [bench.ask(1, priority=3), bench.ask(2), bench.ask(3, priority=1)]
    await bench.end_all()
    await asyncio.gather(*asked)
    assert [array[0, 0] for array, _ in bench.runner.started] == [0, 3, 2, 1]


async def test_a_priority_that_does_not_exist_is_refused_where_there_are_levels() -> None:
    with pytest.raises(InvalidRequest, match="from 1 to 3, or 0 for the default, got 4"):
        await Bench(batching=LEVELS).ask(1, priority=4)
    plain = Bench()
    asked = plain.ask(1, priority=4)
    await plain.end_all()
    await asked


async def test_a_timeout_counts_without_a_default_and_only_in_the_queue() -> None:
    bench = Bench()
    busy = bench.ask(1, timeout_s=0.01)
    await settle()
    waiting = bench.ask(2, timeout_s=0.01)
    await settle()
    bench.now = 0.02
    with pytest.raises(QueueTimeout, match="Request timeout expired"):
        await waiting
    assert bench.notebook.reasons == ["timeout"]
    bench.runner.end(0)
    assert (await busy)[0].tolist() == [[2.0]]


async def test_a_timeout_may_be_what_the_model_says_and_nothing_else() -> None:
    strict = Batching(default_policy=QueuePolicy(timeout_s=5.0, allows_override=False))
    bench = Bench(batching=strict)
    asked = [bench.ask(1)]
    await settle()
    asked.append(bench.ask(2, timeout_s=0.001))
    await settle()
    bench.now = 0.01
    await asyncio.sleep(0.005)
    assert bench.batcher.waiting == 1
    await bench.end_all()
    await asyncio.gather(*asked)


async def test_what_waited_too_long_may_be_served_after_all_others() -> None:
    patient = Batching(default_policy=QueuePolicy(timeout_s=0.01, delays=True))
    bench = Bench(max_batch=1, batching=patient)
    asked = [bench.ask(0)]
    await settle()
    asked.append(bench.ask(1))
    await settle()
    bench.now = 0.02
    await asyncio.sleep(0.02)
    asked.append(bench.ask(2))
    await bench.end_all()
    await asyncio.gather(*asked)
    assert [array[0, 0] for array, _ in bench.runner.started] == [0, 2, 1]
    assert bench.room.items == 0


async def test_each_priority_may_have_its_own_bound() -> None:
    levels = Batching(priority_levels=2, default_priority=1, policies={2: QueuePolicy(max_items=1)})
    bench = Bench(batching=levels)
    asked = [bench.ask(0)]
    await settle()
    asked.append(bench.ask(1, priority=2))
    await settle()
    with pytest.raises(Overloaded, match="1 requests of priority 2 are waiting"):
        await bench.ask(2, priority=2)
    asked.append(bench.ask(3, priority=1))
    await bench.end_all()
    await asyncio.gather(*asked)
    asked = [bench.ask(4)]
    await settle()
    asked.append(bench.ask(5, priority=2))
    await bench.end_all()
    await asyncio.gather(*asked)


async def test_a_delay_waits_for_others_and_a_preferred_size_ends_it() -> None:
    bench = Bench(batching=Batching(max_delay_s=30.0, preferred=(2,)))
    first = bench.ask(1)
    await settle()
    assert bench.runner.rows == []
    second = bench.ask(2)
    await settle()
    assert bench.runner.rows == [2]
    await bench.end_all()
    await asyncio.gather(first, second)


async def test_who_waits_on_purpose_lets_another_shape_pass() -> None:
    bench = Bench(batching=Batching(max_delay_s=30.0, preferred=(2,)))
    patient = bench.ask(1)
    await settle()
    others = [bench.ask(2, width=2), bench.ask(3, width=2)]
    await settle()
    assert [feeds.shape for feeds, _ in bench.runner.started] == [(2, 2)]
    assert not patient.done()
    friend = bench.ask(4)
    await bench.end_all()
    await asyncio.gather(patient, friend, *others)


async def test_a_delay_is_over_when_it_is_over() -> None:
    bench = Bench(batching=Batching(max_delay_s=0.01))
    asked = bench.ask(1)
    await settle()
    assert bench.runner.rows == []
    bench.now = 0.02
    await asyncio.sleep(0.02)
    assert bench.runner.rows == [1]
    await bench.end_all()
    await asked


async def test_a_caller_who_is_alone_gets_all_threads_and_two_share_the_lanes() -> None:
    bench = Bench(seconds=PROPORTIONAL, lanes=2, wide_threads=2)
    alone = bench.ask(1)
    await settle()
    assert [run.wide for _, run in bench.runner.started] == [True]
    late = bench.ask(2)
    await settle()
    assert len(bench.runner.started) == 1, "a wide run takes every lane"
    bench.runner.end(0)
    await settle()
    assert not bench.runner.started[1][1].wide, "nobody is alone just after meeting another"
    bench.runner.end(1)
    await asyncio.gather(alone, late)
    bench.now += 100 * RUN_S
    again = bench.ask(3)
    await settle()
    assert bench.runner.started[2][1].wide
    bench.runner.end(2)
    await again


async def bench_of_a_caller_who_was_alone() -> Bench:
    """Two lanes on which one wide run is over."""
    bench = Bench(seconds=PROPORTIONAL, lanes=2, wide_threads=2)
    first = bench.ask(1)
    await settle()
    bench.runner.end(0)
    await first
    return bench


async def test_who_was_alone_before_does_not_stand_in_line_and_company_shares_the_lanes() -> None:
    bench = await bench_of_a_caller_who_was_alone()
    again, company = bench.ask(2), bench.ask(3)
    await asyncio.sleep(0)  # each has begun, and nothing else has
    assert [run.wide for _, run in bench.runner.started[1:]] == [True]
    assert (bench.batcher.waiting, bench.room.items) == (1, 1), "company waits"
    bench.runner.end(1)
    await settle()
    assert not bench.runner.started[2][1].wide
    bench.runner.end(2)
    assert [(await one)[0].tolist() for one in (again, company)] == [[[4.0]], [[6.0]]]
    assert (bench.notebook.runs, bench.room.items, bench.batcher.is_idle) == ([1, 1, 1], 0, True)


async def test_who_does_not_stand_in_line_and_cannot_run_leaves_nothing_to_wait_for() -> None:
    bench = await bench_of_a_caller_who_was_alone()
    bench.runner.is_closed = True
    with pytest.raises(SessionClosed):
        await bench.ask(2)
    assert bench.batcher.is_idle


async def test_who_does_not_stand_in_line_is_ended_at_its_deadline_all_the_same() -> None:
    bench = await bench_of_a_caller_who_was_alone()
    late = bench.ask(2, deadline=0.05)
    await asyncio.sleep(0)
    assert len(bench.runner.started) == 2
    with pytest.raises(DeadlineExceeded, match="while the model ran"):
        await late
    assert bench.runner.started[1][1].is_terminated
    bench.runner.end(1)


async def test_places_of_those_who_left_are_cleared_away() -> None:
    bench = Bench()
    busy = bench.ask(0)
    await settle()
    for _ in range(40):
        gone = [bench.ask(1) for _ in range(50)]
        await settle()
        for one in gone:
            one.cancel()
        await settle()
    line = bench.batcher._line
    assert (line.items, line.size_bytes) == (0, 0)
    assert sum(map(len, line._buckets.values())) <= 128
    bench.runner.end(0)
    await busy
    await bench.batcher.drain()
