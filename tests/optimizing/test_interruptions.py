"""While others are at work the kernel is made to look often who is to run on their processor."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from optimizers.contract.processors import shared_with_answering
from optimizers.evaluation.interruptions import interrupted
from optimizers.evaluation.quiet import Quiet, Usage

BEFORE = Usage(clock=100.0, busy=50.0, stolen=0.0, own=20.0, processors=2)
OFTEN, SELDOM = 300, 20

pytestmark = pytest.mark.skipif(
    not shared_with_answering(), reason="NOT TESTED: NEEDS TWO PROCESSORS, NO MORE AND NO LESS"
)


def quiet_beside(others_s: float) -> Quiet:
    """One that saw others at work for so long in one second."""
    readings = iter([BEFORE, BEFORE, replace(BEFORE, clock=101.0, busy=51.0 + others_s, own=21.0)])
    quiet = Quiet(2, lambda: next(readings))
    quiet.start()
    quiet.was_quiet()
    return quiet


def interrupting() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "interruptions"]


def wakes(thread: int) -> int:
    """How often a thread has slept so far."""
    lines = Path(f"/proc/self/task/{thread}/status").read_text(encoding="ascii").splitlines()
    found = next(line for line in lines if line.startswith("voluntary_ctxt_switches"))
    return int(found.split()[1])


def test_beside_others_a_thread_wakes_often_on_their_processor_until_it_is_over() -> None:
    with interrupted(quiet_beside(0.1)):
        (thread,) = interrupting()
        assert thread.native_id is not None
        give_up = time.monotonic() + 5
        while (woken := wakes(thread.native_id)) < OFTEN and time.monotonic() < give_up:
            time.sleep(0.01)
        assert woken >= OFTEN
        assert os.sched_getaffinity(thread.native_id) == shared_with_answering()
    assert not interrupting()


def test_where_nobody_is_at_work_nothing_is_interrupted() -> None:
    with interrupted(quiet_beside(0.0)):
        (thread,) = interrupting()
        assert thread.native_id is not None
        time.sleep(0.3)
        assert wakes(thread.native_id) < SELDOM


def test_a_measurement_that_fails_leaves_no_thread() -> None:
    with pytest.raises(ZeroDivisionError), interrupted(quiet_beside(0.1)):
        _ = 1 / 0
    assert not interrupting()
