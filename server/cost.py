"""What a run costs by its rows: measured when a variant is opened, refined by every run."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median_low
from typing import Final

from optimizers.contract.width import FASTER_BELOW
from server.waiting import Shapes

_RATE: Final = 0.2
"""Share of a run's surprise that is learned."""

_LARGEST_SURPRISE: Final = 0.5
"""Of the expected time; a run that was held up by something else teaches no more than this."""

_AS_CHEAP: Final = 1.01
"""A row that costs up to so much more than the cheapest counts as cheap."""

_UNMEASURED: Final = 0.0

_TRY_SIZES_EVERY: Final = 16
_TRY_WIDTHS_EVERY: Final = 32
"""Usual runs between two of another size or width, so that no belief is kept for ever."""

_WIDTHS_KEPT: Final = 7
_SOON: Final = 4
_SETTLED_AFTER: Final = 256
"""Of the first so many runs every fourth tries another size: a heavy model's were hardly measured
when it was opened."""

_LONG_AGO: Final = 512
"""Runs after which a belief is doubted that no run of its size has confirmed."""

_DEAREST_DOUBLE: Final = 3.0
"""Times of a run that one of twice the rows takes at most, where nobody has looked for long."""

_MOST_CURVES: Final = 64
_SHORTEST_S: Final = 1e-7


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What runs of made-up rows took when a variant was opened.

    Attributes:
        seconds: Rows of a run → its seconds; the entry of one row is always there.
        row_bytes: Input bytes of one of these rows.
        shapes: Of one of these rows, of each input; None where nothing could be run.
    """

    seconds: Mapping[int, float]
    row_bytes: int
    shapes: Shapes | None

    def cheapest_row_s(self, within_s: float, max_rows: int) -> float:
        """What a row takes in the cheapest run of at most so long and so many rows.

        Infinite where none is so short.
        """
        return min(
            (
                seconds / rows
                for rows, seconds in self.seconds.items()
                if seconds <= within_s and rows <= max_rows
            ),
            default=math.inf,
        )


class CostCurve:
    """Seconds of one run, t(n), as straight lines between powers of two.

    A run of the size that is run most says how fast the machine is just now, which all sizes
    share; otherwise a busy moment would make one size look worse than another. A run of `n` other
    rows teaches the two powers beside it in proportion to their part in the prediction (normalised
    least mean squares). Where it moves the size that is run most, that takes it back from all, and
    a size that is not run would be moved ever further away; so one that was not run for long is
    believed to lie near the next smaller one. Beyond what was ever run t(n) is proportional.
    """

    __slots__ = (
        "_knee",
        "_rows",
        "_run_at",
        "_runs",
        "_seconds",
        "_tries",
        "is_observed",
        "row_s",
    )

    def __init__(self, seconds: Mapping[int, float], max_rows: int, *, is_observed: bool) -> None:
        """Start from measurements.

        Args:
            seconds: Rows → seconds of one run; at least the entry of one row. Rows that are no
                power of two, or more than `max_rows`, teach their neighbours.
            max_rows: Most rows in one run, at least 1.
            is_observed: Whether rows of this very shape were measured.
        """
        self.is_observed = is_observed
        self._rows = [1 << power for power in range(max_rows.bit_length())]
        self._seconds = [_UNMEASURED] * len(self._rows)
        self._run_at = [0] * len(self._rows)
        """Of each power: how many runs there had been when it was last run."""
        self._runs = self._tries = 0
        for rows in sorted(seconds):
            self._learn(rows, seconds[rows], rate=1.0)
        self._knee, self.row_s = 1, 0.0
        """Seconds of the cheapest row."""
        self._find_knee()

    @property
    def knee(self) -> int:
        """Rows of the smallest run in which a row is cheapest; 1: joining gains nothing."""
        return self._knee

    def seconds(self, rows: int) -> float:
        """Expected time of one run of `rows` rows."""
        low = self._measured_below(rows)
        rest = rows - self._rows[low]
        if not rest:
            return self._seconds[low]
        if low + 1 < len(self._rows) and self._seconds[low + 1]:
            width = self._rows[low + 1] - self._rows[low]
            return self._seconds[low] + (self._seconds[low + 1] - self._seconds[low]) * rest / width
        return self._seconds[low] * rows / self._rows[low]

    def rows_within(self, seconds: float, most: int) -> int:
        """`most`, at least 1, or the largest power of two below it whose run takes `seconds`.

        1 where none is expected to be so short.
        """
        rows = most
        while rows > 1 and self.seconds(rows) > seconds:
            rows = 1 << ((rows - 1).bit_length() - 1)
        return rows

    def rows_to_try(self, there: int) -> int:
        """Rows for the next run when `there` wait: the knee, and now and then twice or half."""
        if there <= 1:
            return 1
        self._tries += 1
        every = _TRY_SIZES_EVERY if self._tries > _SETTLED_AFTER else _SOON
        if self._tries % every:
            return min(self._knee, there)
        larger = self._tries // every & 1
        return min(2 * self._knee if larger else max(1, self._knee // 2), there, self._rows[-1])

    def scaled(self, factor: float) -> Mapping[int, float]:
        """What other rows would take if they took `factor` times as long."""
        return {
            rows: seconds * factor
            for rows, seconds in zip(self._rows, self._seconds, strict=True)
            if seconds
        }

    def observe(self, rows: int, seconds: float) -> None:
        """A run of `rows` rows took `seconds`."""
        seconds = max(seconds, _SHORTEST_S)
        if not self.is_observed:
            # The first run of a shape says how its rows compare with those it was guessed from.
            self._rescale(seconds / self.seconds(rows))
            self.is_observed = True
        if rows == self._knee:
            expected = self.seconds(rows)
            self._rescale(1 + _RATE * _bounded(seconds - expected, expected) / expected)
        else:
            self._learn(rows, seconds, _RATE)
        self._runs += 1
        if rows & (rows - 1) == 0 and rows <= self._rows[-1]:
            self._run_at[rows.bit_length() - 1] = self._runs
        if self._runs & 15 == 0:
            self._doubt_hearsay()
            self._find_knee()

    def _learn(self, rows: int, seconds: float, rate: float) -> None:
        place = min(bisect_right(self._rows, rows) - 1, len(self._rows) - 1)
        low, known = self._rows[place], self._seconds
        if not known[place]:
            known[place] = seconds * low / rows
            return
        if low == rows or place + 1 == len(self._rows):
            surprise = _bounded(seconds * low / rows - known[place], known[place])
            known[place] += rate * surprise
            return
        high = self._rows[place + 1]
        share = (rows - low) / (high - low)
        if not known[place + 1]:
            if share > 0.5:
                known[place + 1] = seconds * high / rows
            return
        surprise = seconds - known[place] * (1 - share) - known[place + 1] * share
        norm = (1 - share) ** 2 + share**2
        for power, part in ((place, 1 - share), (place + 1, share)):
            known[power] += rate * _bounded(surprise * part / norm, known[power])

    def _doubt_hearsay(self) -> None:
        """Of powers that were not run for long, believe only what can be beside the one below."""
        below = _UNMEASURED
        for place, seconds in enumerate(self._seconds):
            if below and seconds and self._runs - self._run_at[place] > _LONG_AGO:
                self._seconds[place] = max(below, min(_DEAREST_DOUBLE * below, seconds))
            below = self._seconds[place]

    def _rescale(self, factor: float) -> None:
        """All sizes take `factor` times as long as was believed, so the cheapest stays cheapest."""
        self._seconds = [seconds * factor for seconds in self._seconds]
        self.row_s *= factor

    def _measured_below(self, rows: int) -> int:
        place = min(bisect_right(self._rows, rows) - 1, len(self._rows) - 1)
        while place and not self._seconds[place]:
            place -= 1
        return place

    def _find_knee(self) -> None:
        costs = {
            rows: seconds / rows
            for rows, seconds in zip(self._rows, self._seconds, strict=True)
            if seconds
        }
        cheapest = min(costs.values())
        self._knee = min(rows for rows, cost in costs.items() if cost <= _AS_CHEAP * cheapest)
        self.row_s = costs[self._knee]


def _bounded(surprise: float, expected: float) -> float:
    most = _LARGEST_SURPRISE * expected
    return max(-most, min(most, surprise))


class Width:
    """Whether a run that takes all threads is sooner over, as the last such runs showed.

    Of several runs the median counts, since all threads must be undisturbed for a wide run to be
    quick: one that something else held up says nothing. It is tried again soon after it was given
    up, because what it is compared with may be of a time when the whole machine was faster. The
    first one counts for nothing: the wide session is opened for it.
    """

    __slots__ = ("_had_first", "_last", "_left", "_pause", "is_faster")

    def __init__(self, ratio: float) -> None:
        """Start from a wide run's time over a narrow one's; 1.0 or more: narrow it is."""
        self.is_faster = ratio < FASTER_BELOW
        self._had_first = False
        self._last = _trusted(ratio)
        self._pause = _TRY_WIDTHS_EVERY if self.is_faster else _SOON
        self._left = self._pause

    def pays(self) -> bool:
        """What to do now for a caller who is alone: what is faster, now and then the other."""
        self._left -= 1
        if self._left:
            return self.is_faster
        self._left = self._pause
        return not self.is_faster

    def observe(self, ratio: float) -> None:
        """A wide run took `ratio` of what a narrow one would have been expected to."""
        if not self._had_first:
            self._had_first = True
        elif self.is_faster:
            self._last.append(ratio)
            if median_low(self._last) >= 1:
                self.is_faster = False
                self._left = self._pause = _SOON
        elif ratio < FASTER_BELOW:
            self.is_faster = True
            self._last = _trusted(ratio)
            self._left = self._pause = _TRY_WIDTHS_EVERY
        else:
            self._pause = min(2 * self._pause, _TRY_WIDTHS_EVERY)


def _trusted(ratio: float) -> deque[float]:
    """The last ratios where one was seen that counts as several."""
    return deque([ratio] * (_WIDTHS_KEPT // 2), _WIDTHS_KEPT)


class Costs:
    """The curves of one open variant, one for each shape of rows that is in use."""

    def __init__(self, measured: Measured, max_rows: int, wide_ratio: float = 1.0) -> None:
        """Start from what was measured when the variant was opened.

        Args:
            measured: What runs took.
            max_rows: Most rows in one run.
            wide_ratio: A wide run's time over a narrow one's.
        """
        self.width = Width(wide_ratio)
        self._measured = measured
        self._max_rows = max_rows
        self._usual = CostCurve(measured.seconds, max_rows, is_observed=measured.shapes is not None)
        self._curves: dict[Shapes | None, CostCurve] = {measured.shapes: self._usual}

    @property
    def usual(self) -> CostCurve:
        """The curve of the rows that were made up."""
        return self._usual

    def curve(self, shapes: Shapes | None, size_bytes: int, rows: int) -> CostCurve:
        """The curve of rows of these shapes; of rows never seen, a guess by their bytes.

        Args:
            shapes: Of one row of each input.
            size_bytes: Bytes of `rows` such rows.
            rows: At least 1.
        """
        curve = self._curves.get(shapes)
        if curve is not None:
            if len(self._curves) > _MOST_CURVES:  # soon one goes: that which was not used longest
                self._curves[shapes] = self._curves.pop(shapes)
        else:
            if len(self._curves) > _MOST_CURVES:
                del self._curves[next(one for one in self._curves if one != self._measured.shapes)]
            factor = max(1.0, size_bytes / max(1, rows) / max(1, self._measured.row_bytes))
            seconds = self._usual.scaled(factor)
            curve = CostCurve(seconds, self._max_rows, is_observed=False)
            self._curves[shapes] = curve
        return curve
