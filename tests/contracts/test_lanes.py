"""Lanes do everything they are given, in order, and no more at once than there are."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time

import pytest

from optimizers.contract.lanes import Lanes


def test_everything_is_done_in_the_order_it_came_before_they_close() -> None:
    lanes, done = Lanes(1), list[int]()
    for number in range(100):
        assert lanes.start(lambda number=number: done.append(number))  # type: ignore[misc]
    lanes.close()
    assert done == list(range(100))
    assert not lanes.start(lambda: done.append(100))
    lanes.close()
    assert done == list(range(100))


def test_no_more_than_so_many_work_at_once_and_all_of_them_do() -> None:
    lanes, meet, most = Lanes(3), threading.Barrier(3, timeout=10), list[int]()
    at_work, lock = set[int](), threading.Lock()

    def work() -> None:
        with lock:
            at_work.add(threading.get_ident())
            most.append(len(at_work))
        meet.wait()
        with lock:
            at_work.discard(threading.get_ident())

    for _ in range(30):
        assert lanes.start(work)
    lanes.close()
    assert len(most) == 30
    assert max(most) == 3


def test_who_became_free_last_goes_on_first_and_nobody_else_wakes() -> None:
    lanes, both = Lanes(2), threading.Barrier(2, timeout=10)

    def meet() -> None:
        both.wait()

    lanes.start(meet)
    lanes.start(meet)
    seen = list[int]()
    for turn in range(20):
        told = threading.Event()

        def work(told: threading.Event = told) -> None:
            seen.append(threading.get_ident())
            told.set()

        time.sleep(0.02)  # both have come to rest
        lanes.start(work)
        assert told.wait(10), f"nobody came in turn {turn}"
    lanes.close()
    assert len(seen) == 20
    assert len(set(seen)) == 1


def test_work_that_fails_is_told_and_takes_no_lane_along(caplog: pytest.LogCaptureFixture) -> None:
    lanes, done = Lanes(1), list[bool]()

    def fail() -> None:
        raise RuntimeError("planted")

    lanes.start(fail)
    lanes.start(lambda: done.append(True))
    lanes.close()
    assert done == [True]
    assert "planted" in caplog.text


@pytest.mark.parametrize("closers", [1, 4])
def test_what_is_started_while_they_close_is_done_or_refused(closers: int) -> None:
    for _ in range(200):
        lanes, done, taken = Lanes(2), list[bool](), list[bool]()

        def give(lanes: Lanes = lanes, done: list[bool] = done, taken: list[bool] = taken) -> None:
            taken.extend(True for _ in range(20) if lanes.start(lambda: done.append(True)))

        giver = threading.Thread(target=give)
        others = [threading.Thread(target=lanes.close) for _ in range(closers)]
        for thread in (giver, *others):
            thread.start()
        for thread in (giver, *others):
            thread.join(10)
            assert not thread.is_alive()
        lanes.close()
        assert len(done) == len(taken)


def test_lanes_that_are_forgotten_end() -> None:
    before = threading.active_count()
    lanes, told = Lanes(2), threading.Event()
    lanes.start(told.set)
    assert told.wait(10)
    assert threading.active_count() == before + 1
    del lanes
    gc.collect()
    assert threading.active_count() == before


def test_the_interpreter_waits_for_what_is_at_work() -> None:
    program = (
        "import time; from optimizers.contract.lanes import Lanes\n"
        "lanes = Lanes(1); lanes.start(lambda: (time.sleep(0.5), print('done', flush=True)))"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert told.stdout == "done\n"


def test_work_no_thread_can_be_had_for_is_refused_and_not_done_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lanes, done = Lanes(1), list[str]()

    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError):
            lanes.start(lambda: done.append("refused"))
    assert lanes.start(lambda: done.append("taken"))
    lanes.close()
    assert done == ["taken"]
