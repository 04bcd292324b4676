"""Threads that compute for long let those run at once who wake for a moment."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from optimizers.contract import turns
from optimizers.contract.processors import answering_threads_are
from optimizers.contract.turns import take_long_turns, take_short_turns
from server.aside import executor_aside

LONG_MS = 100
SHORT_MS = 0.1
_GETATTR_IS_BEHIND = 1
_libc = ctypes.CDLL(None)


def turn_ms() -> float:
    """How long the kernel lets the calling thread go on while others wait; 0 where it says not."""
    found = turns._Attributes()
    size = ctypes.sizeof(found)
    assert turns._SCHED_SETATTR is not None
    call = turns._SCHED_SETATTR + _GETATTR_IS_BEHIND
    assert _libc.syscall(call, 0, ctypes.byref(found), size, 0) == 0
    return float(found.runtime_ns / 1e6)


needs_turns = pytest.mark.skipif(
    turns._SCHED_SETATTR is None or turn_ms() == 0,
    reason="NOT TESTED: NEEDS LINUX 6.12 OR LATER ON X86-64 OR ARM64",
)


def in_a_thread(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


@needs_turns
def test_who_asks_has_long_turns_and_whom_it_starts_has_not() -> None:
    usual, seen = turn_ms(), []

    def work() -> None:
        take_long_turns()
        seen.append(turn_ms())
        in_a_thread(lambda: seen.append(turn_ms()))

    in_a_thread(work)
    assert seen == [LONG_MS, usual]
    assert turn_ms() == usual < LONG_MS


@needs_turns
def test_short_turns_are_shorter_than_usual() -> None:
    seen = []

    def work() -> None:
        take_short_turns()
        seen.append(turn_ms())

    in_a_thread(work)
    assert seen == [SHORT_MS]
    assert turn_ms() > SHORT_MS


@needs_turns
def test_who_loads_models_has_long_turns_and_who_answers_has_not() -> None:
    usual = turn_ms()
    try:
        with executor_aside() as executor:
            assert executor.submit(turn_ms).result() == LONG_MS
        assert turn_ms() == usual
    finally:
        answering_threads_are(())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("os.nice(5)", "os.getpriority(os.PRIO_PROCESS, 0) == 5"),
        (
            "os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))",
            "os.sched_getscheduler(0) == os.SCHED_BATCH",
        ),
    ],
)
def test_priority_and_policy_stay_as_they_are(before: str, after: str) -> None:
    code = (
        "import os; from optimizers.contract.turns import take_long_turns; "
        f"{before}; take_long_turns(); assert {after}"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=os.getcwd())
