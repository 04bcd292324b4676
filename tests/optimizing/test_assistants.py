"""The further processes of a search: one that crashes is replaced, and all end with it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from optimizers.assistants import MOST_STARTS, assistants
from tests.support.processes import descendants, state


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def command(script: str) -> tuple[str, ...]:
    return ("sh", "-c", script)


def starts(log: Path) -> int:
    return log.read_text().count("started") if log.exists() else 0


def test_one_that_crashes_is_replaced_a_few_times(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = tmp_path / "worker.log"
    with assistants(command("echo started; exit 3"), log, 1):
        until(lambda: "nobody takes its place" in caplog.text)
    assert starts(log) == MOST_STARTS
    assert caplog.text.count("ended with code 3; another one takes its place") == MOST_STARTS - 1


def test_one_that_is_killed_is_replaced_and_all_end_with_the_search(tmp_path: Path) -> None:
    log, before = tmp_path / "worker.log", set(descendants(os.getpid()))

    def living() -> list[int]:
        return [one for one in descendants(os.getpid()) if one not in before]

    with assistants(command("echo started; exec sleep 1000"), log, 2):
        until(lambda: starts(log) == 2)
        os.kill(living()[0], signal.SIGKILL)
        until(lambda: starts(log) == 3)
        processes = living()
        assert len(processes) == 2
    assert all(state(process) in ("", "Z") for process in processes)


def test_one_that_has_done_its_part_is_not_replaced(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    with assistants(command("echo started"), log, 2):
        until(lambda: starts(log) == 2)
        time.sleep(1.5)  # two looks
    assert starts(log) == 2


def test_what_cannot_be_started_costs_the_search_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with assistants((str(tmp_path / "nothing"),), tmp_path / "worker.log", 1):
        until(lambda: "could not be started" in caplog.text)


def test_a_search_of_one_process_starts_none(tmp_path: Path) -> None:
    with assistants(command("echo started"), tmp_path / "worker.log", 0):
        pass
    assert not (tmp_path / "worker.log").exists()
