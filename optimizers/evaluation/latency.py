"""Latency and throughput of two sessions, measured in turn so that drift hits both alike.

A unit is four windows, original - variant - variant - original, each a burst of runs; a unit in
which others used the machine is void. Bounds come from the units' ratios by order statistics, at
looks fixed beforehand, between which alpha is divided: stopping early cannot flatter anybody.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from optimizers.contract.evaluation import Estimate, Figure
from optimizers.contract.goal import FigureName
from optimizers.contract.runtime import Feeds, Session
from optimizers.evaluation.bounds import median_interval, quantile_interval
from optimizers.evaluation.quiet import Quiet

WINDOW_S: Final = 0.05
LOOKS: Final = (16, 32, 64)
"""Numbers of units after which the interval is looked at."""
PRECISE: Final = 0.025
"""Half width of the ratio's interval, relative to the ratio, at which measuring stops."""
UNSTABLE: Final = 0.10
"""Half width above which the result counts as unstable."""

_METHOD: Final = (
    "median of interleaved unit ratios, order statistics, quiet windows only, "
    f"at most {len(LOOKS)} looks"
)


class Unstable(Exception):
    """No quiet or stable measurement was had in the time allowed; the text says what was seen."""


@dataclass(slots=True)
class Unit:
    """Per-run seconds, rate and processor seconds of one side in one unit."""

    seconds: list[float] = field(default_factory=list)
    items: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0

    @property
    def median(self) -> float:
        """Median seconds of a run."""
        return float(np.median(self.seconds))

    @property
    def rate(self) -> float:
        """Items a second."""
        return self.items / self.wall_s

    @property
    def cost(self) -> float:
        """Processor seconds for 1000 items."""
        return 1000 * self.cpu_s / self.items


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """All valid units of both sides, in order."""

    original: tuple[Unit, ...]
    variant: tuple[Unit, ...]
    void: int


Window = Callable[[Unit], None]
"""Runs one window and adds what it saw to a unit."""


def measure(
    original: Window,
    variant: Window,
    quantity: Callable[[Unit], float],
    *,
    alpha: float,
    deadline: float,
    quiet: Quiet,
    report: Callable[[float], None] = lambda share: None,
) -> Series:
    """Alternate both windows until the ratio of `quantity` is known well enough.

    Args:
        original: One window of the original.
        variant: One window of the variant.
        quantity: What the ratio is of.
        alpha: Error probability of each bound, all looks together.
        deadline: On the monotonic clock.
        quiet: Judge of disturbances.
        report: Takes the share of the largest number of units that is done.

    Raises:
        Unstable: The deadline passed before the interval was narrow enough to mean anything.
    """
    units: tuple[list[Unit], list[Unit]] = ([], [])
    void = 0
    while True:
        if time.monotonic() > deadline:
            raise Unstable(
                f"only {len(units[0])} quiet measurements were had in time ({void} were void "
                "because others used the machine), or their spread was too large"
            )
        one, other = Unit(), Unit()
        quiet.start()
        for window, unit in ((original, one), (variant, other), (variant, other), (original, one)):
            window(unit)
        if not quiet.was_quiet():
            void += 1
            continue
        units[0].append(one)
        units[1].append(other)
        count = len(units[0])
        report(count / LOOKS[-1])
        if count not in LOOKS and count < LOOKS[-1]:
            continue
        width = _half_width(units, quantity, alpha)
        if width <= PRECISE or (count >= LOOKS[-1] and width <= UNSTABLE):
            return Series(original=tuple(units[0]), variant=tuple(units[1]), void=void)


def latency_figures(
    original: Session,
    variant: Session,
    feeds: Feeds,
    *,
    batch: int,
    alpha: float,
    deadline: float,
    quiet: Quiet,
    report: Callable[[float], None],
) -> tuple[Figure, Figure]:
    """Median and 99th percentile of one caller's latency, for requests of `batch` rows.

    Raises:
        Unstable: See `measure`.
    """
    runs = max(_runs_in_window(original, feeds), _runs_in_window(variant, feeds))
    series = measure(
        _latency_window(original, feeds, runs),
        _latency_window(variant, feeds, runs),
        lambda unit: unit.median,
        alpha=alpha,
        deadline=deadline,
        quiet=quiet,
        report=report,
    )
    condition = f"batch {batch}" if batch > 1 else ""
    median = _paired_figure(
        FigureName.LATENCY_P50, "s", series, lambda unit: unit.median, alpha, condition
    )
    return median, _tail_figure(series, alpha, condition)


def throughput_figures(
    original: Session,
    variant: Session,
    feeds: tuple[Feeds, Feeds],
    rows: tuple[int, int],
    *,
    alpha: float,
    deadline: float,
    quiet: Quiet,
    report: Callable[[float], None],
) -> tuple[Figure, Figure]:
    """Items a second and processor time per item with every lane busy.

    Args:
        original: Open session of the original.
        variant: Open session of the variant.
        feeds: What each is fed in one run, joined as it will be served.
        rows: Rows in each of these.
        alpha: Error probability of each bound.
        deadline: On the monotonic clock.
        quiet: Judge of disturbances.
        report: Takes the share done.

    Raises:
        Unstable: See `measure`.
    """
    series = measure(
        _throughput_window(original, feeds[0], rows[0]),
        _throughput_window(variant, feeds[1], rows[1]),
        lambda unit: unit.rate,
        alpha=alpha,
        deadline=deadline,
        quiet=quiet,
        report=report,
    )
    return (
        _paired_figure(FigureName.THROUGHPUT, "items/s", series, lambda unit: unit.rate, alpha),
        _paired_figure(FigureName.COST, "s/1000", series, lambda unit: unit.cost, alpha),
    )


def _latency_window(session: Session, feeds: Feeds, runs: int) -> Window:
    def window(unit: Unit) -> None:
        for _ in range(runs):
            start = time.perf_counter()
            session.run(feeds)
            unit.seconds.append(time.perf_counter() - start)

    return window


def _throughput_window(session: Session, feeds: Feeds, rows: int) -> Window:
    def window(unit: Unit) -> None:
        cpu, start = time.process_time(), time.perf_counter()
        running: set[Future[Any]] = {session.submit(feeds) for _ in range(2 * session.spec.lanes)}
        done = 0
        while running:
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            done += len(finished)
            if time.perf_counter() - start < WINDOW_S:
                running |= {session.submit(feeds) for _ in finished}
        unit.wall_s += time.perf_counter() - start
        unit.cpu_s += time.process_time() - cpu
        unit.items += done * rows

    return window


def _runs_in_window(session: Session, feeds: Feeds) -> int:
    """How many runs fill a window, after warming up."""
    seconds: list[float] = []
    start = time.perf_counter()
    while len(seconds) < 3 or time.perf_counter() - start < WINDOW_S:
        begun = time.perf_counter()
        session.run(feeds)
        seconds.append(time.perf_counter() - begun)
    return max(1, int(WINDOW_S / float(np.median(seconds))))


def _half_width(
    units: tuple[list[Unit], list[Unit]], quantity: Callable[[Unit], float], alpha: float
) -> float:
    ratios = [quantity(b) / quantity(a) for a, b in zip(*units, strict=True)]
    interval = median_interval(ratios, alpha / len(LOOKS))
    if interval.lower is None or interval.upper is None:
        return float("inf")
    return (interval.upper - interval.lower) / 2 / interval.value


def _paired_figure(
    name: FigureName,
    unit: str,
    series: Series,
    quantity: Callable[[Unit], float],
    alpha: float,
    condition: str = "",
) -> Figure:
    one = [quantity(unit_) for unit_ in series.original]
    other = [quantity(unit_) for unit_ in series.variant]
    share = alpha / len(LOOKS)
    return Figure(
        name=name,
        unit=unit,
        samples=len(one),
        value=median_interval(other, share),
        original=median_interval(one, share),
        difference=median_interval([b - a for a, b in zip(one, other, strict=True)], share),
        ratio=median_interval([b / a for a, b in zip(one, other, strict=True)], share),
        method=f"{_METHOD}, {series.void} units void",
        condition=condition,
    )


def _tail_figure(series: Series, alpha: float, condition: str) -> Figure:
    one = _pooled(series.original)
    other = _pooled(series.variant)
    share = alpha / len(LOOKS) / 2
    value, original = (quantile_interval(times, 0.99, share) for times in (other, one))
    return Figure(
        name=FigureName.LATENCY_P99,
        unit="s",
        samples=len(other),
        value=value,
        original=original,
        difference=_apart(value, original, lambda a, b: a - b),
        ratio=_apart(value, original, lambda a, b: a / b),
        method="pooled runs, order statistics; runs of one unit are taken as independent",
        condition=condition,
    )


def _apart(
    value: Estimate, original: Estimate, compare: Callable[[float, float], float]
) -> Estimate:
    """Compare two estimates by their bounds; each spends half of alpha."""
    bounded = None not in (value.lower, value.upper, original.lower, original.upper)
    return Estimate(
        value=compare(value.value, original.value),
        lower=compare(value.lower, original.upper) if bounded else None,  # type: ignore[arg-type]
        upper=compare(value.upper, original.lower) if bounded else None,  # type: ignore[arg-type]
    )


def _pooled(units: Sequence[Unit]) -> list[float]:
    return [seconds for unit in units for seconds in unit.seconds]
