"""A figure with what was measured of it and what it should be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table that `make bench` is for.

    Attributes:
        figure: What is measured.
        values: One for each round; none where it was not measured.
        least: What must hold of the median.
        aim: What is wished of it.
        unit: `x`, `%`, `ms`, `s`, `MB`, as printed behind each number.
        high_is_good: Whether more is better.
        note: Why there are no values, or how to read them.
    """

    figure: str
    values: Sequence[float]
    least: float
    aim: float
    unit: str
    high_is_good: bool = False
    note: str = ""

    @property
    def verdict(self) -> str:
        """`aim`, `yes`, `no`, or `not measured`, of the median."""
        if not self.values:
            return "not measured"
        middle = median(self.values)
        if self._holds(middle, self.aim):
            return "aim"
        return "yes" if self._holds(middle, self.least) else "no"

    @property
    def sign(self) -> str:
        """How a limit compares."""
        return "≥" if self.high_is_good else "≤"

    def _holds(self, value: float, limit: float) -> bool:
        return value >= limit if self.high_is_good else value <= limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Numbers behind the rows.

    Attributes:
        title: What they are of.
        note: How they were taken.
        heads: One for each column.
        lines: Cells, as printed.
    """

    title: str
    note: str
    heads: Sequence[str]
    lines: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one part of the benchmarks found.

    Attributes:
        rows: For the table of verdicts.
        tables: For the details.
        failures: Why the run as a whole cannot be trusted; empty when it can.
    """

    rows: Sequence[Row] = ()
    tables: Sequence[Table] = ()
    failures: Sequence[str] = ()


def number(value: float) -> str:
    """Three digits, or all before the point, with thousands apart."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def spread(values: Sequence[float], unit: str = "") -> str:
    """Median and in brackets the smallest and the largest."""
    if not values:
        return "-"
    if len(values) == 1:
        return f"{number(values[0])}{behind(unit)}"
    return f"{number(median(values))}{behind(unit)} [{number(min(values))}, {number(max(values))}]"


def behind(unit: str) -> str:
    """A unit as it follows its number."""
    return unit if unit in ("", "x") else f" {unit}"


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Round by round, one divided by the other."""
    return [one / other for one, other in zip(above, below, strict=True)]
