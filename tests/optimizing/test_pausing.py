"""A job that is paused: its processes stand still, and nobody takes the pause for work."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from optimizers.contract.job import PAUSE_FILE, PAUSES_FILE, last_progress
from optimizers.evaluation.quiet import Quiet, Usage
from optimizers.pausing import PAUSES_VARIABLE, note_begin, note_end, pauses, working_time
from optimizers.supervision import TookTooLong, run_child
from tests.support.processes import descendants, state

# Counts up in a file; so does a child of it that has a session of its own.
COUNTING = """\
import subprocess, sys, time
where, depth = sys.argv[1], int(sys.argv[2])
if depth:
    again = [sys.executable, __file__, where, str(depth - 1)]
    child = subprocess.Popen(again, start_new_session=True)
for number in range(int(sys.argv[3]) if len(sys.argv) > 3 else 10**6):
    with open(f"{where}/count{depth}", "w") as file:
        file.write(str(number))
    time.sleep(0.01)
if depth:
    child.kill()
    child.wait()
"""


class Child:
    """A child of `run_child`, run by a thread of this process."""

    def __init__(self, directory: Path, *, rounds: int, limit_s: float = 0.0) -> None:
        script = directory / "counting.py"
        script.write_text(COUNTING)
        self._directory = directory
        self._command = [sys.executable, str(script), str(directory), "1", str(rounds)]
        self._limit_s = limit_s
        self.code: int | None = None
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.code = run_child(
                self._command, self._directory, environment={}, limit_s=self._limit_s
            )
        except TookTooLong as error:
            self.error = error

    @contextmanager
    def running(self) -> Iterator[list[int]]:
        """Its processes, both counting."""
        before = set(descendants_of_this_process())
        self.thread.start()
        until(lambda: all((self._directory / f"count{depth}").exists() for depth in (0, 1)))
        yield [one for one in descendants_of_this_process() if one not in before]
        self.thread.join(30)
        assert not self.thread.is_alive()

    def pause(self) -> None:
        (self._directory / PAUSE_FILE).write_text("net is late")

    def resume(self) -> None:
        (self._directory / PAUSE_FILE).unlink()


def descendants_of_this_process() -> list[int]:
    return descendants(os.getpid())


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_every_process_of_a_paused_child_stands_still_and_goes_on_after_it(tmp_path: Path) -> None:
    child = Child(tmp_path, rounds=100)
    with child.running() as processes:
        assert len(processes) == 2
        child.pause()
        until(lambda: all(state(process) == "T" for process in processes))
        until(lambda: last_progress(tmp_path) is not None)
        progress = last_progress(tmp_path)
        assert progress is not None
        assert (progress.stage, progress.text) == ("paused", "net is late")
        counted = [(tmp_path / f"count{depth}").read_text() for depth in (0, 1)]
        time.sleep(0.2)
        assert [(tmp_path / f"count{depth}").read_text() for depth in (0, 1)] == counted
        child.resume()
    assert child.code == 0
    assert (tmp_path / "count1").read_text() == "99"
    progress = last_progress(tmp_path)
    assert progress is not None
    assert progress.stage == ""


def test_a_pause_is_progress_as_long_as_it_takes(tmp_path: Path) -> None:
    child = Child(tmp_path, rounds=30)
    with child.running():
        child.pause()
        until(lambda: last_progress(tmp_path) is not None)
        first = last_progress(tmp_path)
        until(lambda: last_progress(tmp_path) != first)
        child.resume()


def test_the_time_that_a_child_may_work_does_not_count_pauses(tmp_path: Path) -> None:
    child = Child(tmp_path, rounds=50, limit_s=2.0)
    with child.running():
        child.pause()
        time.sleep(2.5)
        child.resume()
    assert (child.code, child.error) == (0, None)


def test_a_child_that_works_for_longer_than_it_may_is_ended(tmp_path: Path) -> None:
    child = Child(tmp_path, rounds=10_000, limit_s=0.5)
    with child.running() as processes:
        pass
    assert isinstance(child.error, TookTooLong)
    until(lambda: state(processes[0]) in ("", "Z"))
    for process in processes[1:]:
        os.kill(process, signal.SIGKILL)


def test_a_window_that_a_pause_fell_into_is_void(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / PAUSES_FILE
    monkeypatch.setenv(PAUSES_VARIABLE, str(file))

    def still() -> Usage:
        return Usage(clock=0.0, busy=0.0, stolen=0.0, own=0.0, processors=2, pauses=pauses())

    quiet = Quiet(2, still)
    quiet.start()
    assert quiet.was_quiet()
    note_begin(file)
    assert not quiet.was_quiet()
    quiet.start()
    note_end(file, 3.0)
    assert not quiet.was_quiet()
    quiet.start()
    assert quiet.was_quiet()


def test_working_time_stands_still_in_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PAUSES_VARIABLE, raising=False)
    assert working_time() == pytest.approx(time.monotonic(), abs=1.0)
    file = tmp_path / PAUSES_FILE
    monkeypatch.setenv(PAUSES_VARIABLE, str(file))
    for seconds in (100.0, 20.5):
        note_begin(file)
        note_end(file, seconds)
    assert time.monotonic() - working_time() == pytest.approx(120.5, abs=1.0)
