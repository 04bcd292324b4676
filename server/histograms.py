"""Distributions that cost their writer an append each; readers on other threads need no lock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

SECONDS: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01),
    *(0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
ROWS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
_MOST_PENDING: Final = 512


@dataclass(frozen=True, slots=True)
class Distribution:
    """What a histogram had counted at one moment.

    Attributes:
        cumulative: For each bound, how many values were at most that; last, how many there were.
        total: Sum of all values.
    """

    cumulative: tuple[int, ...]
    total: float

    @property
    def count(self) -> int:
        """How many values there were."""
        return self.cumulative[-1]


class _Settled(NamedTuple):
    """Values sorted into buckets, and the list that takes those which are not yet."""

    counts: NDArray[np.int64]
    total: float
    pending: list[float]


class Histogram:
    """Counts values between fixed bounds. One thread writes, any thread reads.

    Values gather in a list and are sorted into buckets together. The list and the buckets are
    replaced in one assignment, so a reader meets every value exactly once.
    """

    __slots__ = ("_pending", "_settled", "bounds")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """Count between `bounds`, which ascend; a last bucket takes what is above them."""
        self.bounds = bounds
        self._pending: list[float] = []
        self._settled = _Settled(np.zeros(len(bounds) + 1, np.int64), 0.0, self._pending)

    def observe(self, value: float) -> None:
        """Count one value."""
        pending = self._pending
        pending.append(value)
        if len(pending) >= _MOST_PENDING:
            self._settle()

    def observe_all(self, values: Sequence[float]) -> None:
        """Count many values."""
        pending = self._pending
        pending.extend(values)
        if len(pending) >= _MOST_PENDING:
            self._settle()

    def read(self) -> Distribution:
        """What has been counted."""
        counts, total = self._sorted(self._settled)
        return Distribution(tuple(np.cumsum(counts).tolist()), total)

    def _settle(self) -> None:
        counts, total = self._sorted(self._settled)
        pending: list[float] = []
        self._settled = _Settled(counts, total, pending)
        self._pending = pending

    def _sorted(self, settled: _Settled) -> tuple[NDArray[np.int64], float]:
        values = np.array(settled.pending, np.float64)
        buckets = np.searchsorted(self.bounds, values, side="left")
        counts = settled.counts + np.bincount(buckets, minlength=len(self.bounds) + 1)
        return counts, settled.total + float(values.sum())
