"""Whether the machine was left alone while something was timed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from optimizers.pausing import pauses, working_time

BUSY_OTHERS: Final = 0.25
"""Processors' worth of work by others, beside those not handed out, that void a window."""

STOLEN: Final = 0.10
"""Share of the machine's time taken away by its hypervisor that voids a window."""

AT_WORK: Final = 0.05
"""Processors' worth of work by others, counted like `BUSY_OTHERS`, that is given way to."""

_REST: Final = 9.0
"""How long others are given, in lengths of what was just measured: a tenth of them is delayed, so
that their 99th percentile is hardly touched where a run is short."""

_LONGEST_LOOK_S: Final = 1.0
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_IDLE_FIELDS: Final = (3, 4)  # idle, iowait
_STEAL_FIELD: Final = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Processor time at one moment, in seconds.

    Attributes:
        clock: Monotonic time.
        busy: Of all processors and processes together.
        stolen: Taken by the hypervisor.
        own: Of this process.
        processors: How many there are.
        pauses: See `pausing.pauses`.
    """

    clock: float
    busy: float
    stolen: float
    own: float
    processors: int
    pauses: int = 0


ReadUsage = Callable[[], Usage]
"""What the kernel has counted so far."""


def read_usage() -> Usage:
    """What this machine's kernel has counted so far."""
    lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
    fields = [int(field) for field in lines[0].split()[1:9]]
    stolen = fields[_STEAL_FIELD] / _TICKS_PER_S
    idle = sum(fields[index] for index in _IDLE_FIELDS) / _TICKS_PER_S
    return Usage(
        clock=time.monotonic(),
        busy=sum(fields) / _TICKS_PER_S - idle - stolen,
        stolen=stolen,
        own=time.process_time(),
        processors=sum(line.startswith("cpu") for line in lines) - 1,
        pauses=pauses(),
    )


class Quiet:
    """Judges windows of time by what others did in them."""

    def __init__(self, cpus: int, read: ReadUsage = read_usage) -> None:
        """Judge by `read`, for work that is handed out `cpus` processors."""
        self._read = read
        self._before = read()
        self._seen_s = self._others_s = 0.0
        self._spare = max(0, self._before.processors - cpus)

    def start(self) -> None:
        """A window begins."""
        self._before = self._read()

    def wait(self, look_s: float, deadline: float) -> bool:
        """Do nothing until others leave the machine alone; whether they did.

        Args:
            look_s: How long to look on, at first; while others are busy looks grow longer.
            deadline: When to give up, by `pausing.working_time`.
        """
        while (left_s := deadline - working_time()) > 0:
            self.start()
            time.sleep(min(look_s, left_s))
            if self.was_quiet():
                return True
            look_s = min(2 * look_s, _LONGEST_LOOK_S)
        return False

    @property
    def others_work(self) -> bool:
        """Whether others were at work, however little, while they were looked at."""
        return self._others_s > (AT_WORK + self._spare) * self._seen_s

    def give_way(self, measured_s: float, deadline: float) -> None:
        """Do nothing for a while where others are at work, however little.

        Whoever answers a request now and then does not void a window, but waits for the end of a
        turn, milliseconds, of whoever measures: the less often the better.

        Args:
            measured_s: How long the last window took.
            deadline: When time is up, by `pausing.working_time`.
        """
        if self.others_work:
            time.sleep(max(0.0, min(_REST * measured_s, deadline - working_time())))

    def was_quiet(self) -> bool:
        """Whether the window that began with `start` and ends now was undisturbed.

        Others may use the processors that are not handed out: there they are in nobody's way.
        A window that a pause fell into is void, whatever others did.
        """
        before, after = self._before, self._read()
        if after.pauses != before.pauses:
            return False
        seconds = max(after.clock - before.clock, 1e-9)
        others = (after.busy - before.busy) - (after.own - before.own)
        self._seen_s += seconds
        self._others_s += others
        theirs = BUSY_OTHERS + self._spare
        stolen = (after.stolen - before.stolen) / (seconds * max(1, after.processors))
        # The kernel counts in ticks; two of them are within its rounding.
        return others <= theirs * seconds + 2 / _TICKS_PER_S and stolen <= STOLEN
