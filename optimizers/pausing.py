"""Pauses of a job, as those see them who work on it: how many there were, and how long.

A server pauses a job so that its processors serve. Whoever supervises the job stops its processes
then and writes both ends of each pause into a file, which an environment variable names to all of
them. Time on the clock goes on meanwhile: a window that a pause fell into says nothing, and a
deadline has to wait for as long as the pause took.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from optimizers.contract.job import PAUSE_BEGINS

PAUSES_VARIABLE: Final = "HONE_WORKER_PAUSES"
"""Environment variable with the file that grows when a pause begins and ends."""


def pauses() -> int:
    """A number that is another one after the begin, and after the end, of each pause."""
    return len(_lines())


def working_time() -> float:
    """Seconds on the monotonic clock, which stood still during every pause that is over."""
    paused_s = sum(float(line) for line in _lines() if line != PAUSE_BEGINS)
    return time.monotonic() - paused_s


def note_begin(file: Path) -> None:
    """Write that a pause begins; before anything is stopped."""
    _append(file, PAUSE_BEGINS)


def note_end(file: Path, seconds: float) -> None:
    """Write that a pause ends which took `seconds`; before anything goes on."""
    _append(file, f"{seconds:.6f}")


def _lines() -> list[str]:
    file = os.environ.get(PAUSES_VARIABLE)
    if not file:
        return []
    try:
        return Path(file).read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return []


def _append(file: Path, line: str) -> None:
    with file.open("a", encoding="ascii") as opened:
        opened.write(f"{line}\n")
