"""How much a server process holds, over time."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_EVERY_S: Final = 1.0
_WARM_UP: Final = 0.25
_MB: Final = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What a process holds at a time.

    Attributes:
        at: Seconds on the monotonic clock.
        resident: Bytes in memory.
        descriptors: Open files and sockets.
        threads: Threads.
    """

    at: float
    resident: int
    descriptors: int
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """A quantity after the warm-up and at the end: medians of a quarter of the time each.

    Attributes:
        name: For example "resident MB".
        early: In the second quarter.
        late: In the last quarter.
        most: The highest `late` that is no leak.
    """

    name: str
    early: float
    late: float
    most: float

    @property
    def is_a_leak(self) -> bool:
        """Whether it grew by more than comes and goes with the load."""
        return self.late > self.most


async def watch(process: int, samples: list[Sample]) -> None:
    """Sample a process every second, for ever."""
    while True:
        samples.append(sample(process))
        await asyncio.sleep(_EVERY_S)


def sample(process: int) -> Sample:
    """What the process holds now."""
    status = dict(
        line.split(":", 1)
        for line in Path(f"/proc/{process}/status").read_text().splitlines()
        if ":" in line
    )
    return Sample(
        at=time.monotonic(),
        resident=int(status["VmRSS"].split()[0]) * 1024,
        descriptors=len(list(Path(f"/proc/{process}/fd").iterdir())),
        threads=int(status["Threads"]),
    )


def growth(samples: Sequence[Sample]) -> list[Growth]:
    """Of each quantity; bounds leave room for what comes and goes with the load."""
    quarter = max(1, int(len(samples) * _WARM_UP))
    early, late = samples[quarter : 2 * quarter] or samples, samples[-quarter:]

    def of(name: str, values: Sequence[Sequence[float]], factor: float, room: float) -> Growth:
        first, last = (statistics.median(one) for one in values)
        return Growth(name=name, early=first, late=last, most=first * factor + room)

    return [
        of("resident MB", [[s.resident / _MB for s in part] for part in (early, late)], 1.1, 20),
        of("descriptors", [[s.descriptors for s in part] for part in (early, late)], 1.1, 100),
        of("threads", [[s.threads for s in part] for part in (early, late)], 1.0, 4),
    ]
