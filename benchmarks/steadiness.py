"""How steady the machine was: what a fixed piece of work took, again and again."""

from __future__ import annotations

import time
from statistics import median
from typing import Final

_ADDITIONS: Final = 100_000


class Steadiness:
    """Times of the same few milliseconds of work; others who use the machine make them differ."""

    def __init__(self) -> None:
        self._taken_ms: list[float] = []

    def look(self) -> None:
        """Do the work once more."""
        start, total = time.perf_counter(), 0
        for number in range(_ADDITIONS):
            total += number
        self._taken_ms.append(1e3 * (time.perf_counter() - start))

    def __str__(self) -> str:
        if not self._taken_ms:
            return "nobody looked how steady the machine was"
        best, middle, worst = min(self._taken_ms), median(self._taken_ms), max(self._taken_ms)
        return (
            f"the same {_ADDITIONS:,} additions in Python, done before each of "
            f"{len(self._taken_ms)} windows, took {best:.2g} ms at best, {middle:.2g} ms in the "
            f"median and {worst:.2g} ms at worst"
        )
