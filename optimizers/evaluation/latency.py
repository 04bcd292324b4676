"""Latency and throughput of two sessions, as ratios of what was measured in turn."""

from __future__ import annotations

import time
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from typing import Any, Final

import numpy as np

from optimizers.contract.evaluation import Estimate, Figure
from optimizers.contract.goal import FIGURES, FigureName
from optimizers.contract.runtime import Feeds, Session
from optimizers.evaluation.bounds import median_interval
from optimizers.evaluation.series import Quantity, Series, Terms, Unit, Window, measure

RUNS_FOR_P99: Final = 100
"""Runs a unit needs so that its 99th percentile is more than its slowest run."""

_METHOD: Final = "order statistics, quiet windows only"


def latency_figures(
    sessions: tuple[Session, Session], feeds: Feeds, terms: Terms, *, batch: int, for_p99: bool
) -> tuple[Figure, Figure]:
    """Median and 99th percentile of one caller's latency, who is alone.

    Args:
        sessions: The original and the variant, open, each with its wide session if that pays.
        feeds: What both are fed.
        terms: How to measure.
        batch: Rows in these.
        for_p99: Whether each unit must be long enough for a 99th percentile.

    Raises:
        Unstable: See `measure`.
    """
    runs = [_runs_in_window(session, feeds, terms.timing.window_s) for session in sessions]
    least = max(RUNS_FOR_P99 // 2 if for_p99 else 1, max(runs) if terms.timing.same_runs else 1)
    one, other = (
        _latency_window(session, feeds, max(count, least))
        for session, count in zip(sessions, runs, strict=True)
    )
    series = measure(one, other, lambda unit: unit.median, terms)
    condition = f"batch {batch}" if batch > 1 else ""
    median = _paired_figure(
        FigureName.LATENCY_P50, "s", series, lambda unit: unit.median, terms, condition
    )
    return median, tail_figure(series, terms, condition)


def throughput_figures(
    sessions: tuple[Session, Session],
    feeds: tuple[Feeds, Feeds],
    rows: tuple[int, int],
    price: float,
    terms: Terms,
) -> tuple[Figure, Figure]:
    """Items a second, and what 1000 items cost, with every lane busy.

    The cost is processor seconds for 1000 items times the price of such a second.

    Args:
        sessions: The original and the variant, open.
        feeds: What each is fed in one run, joined as it will be served.
        rows: Rows in each of these.
        price: Of a processor second, above 0.
        terms: How to measure.

    Raises:
        Unstable: See `measure`.
    """
    one, other = (
        _throughput_window(session, fed, count, terms.timing.window_s)
        for session, fed, count in zip(sessions, feeds, rows, strict=True)
    )
    series = measure(one, other, lambda unit: unit.rate, terms)
    condition = f"{rows[1]} rows a run"
    if rows[0] != rows[1]:
        condition += f", the original's {rows[0]}"
    return (
        _paired_figure(
            FigureName.THROUGHPUT, "items/s", series, lambda unit: unit.rate, terms, condition
        ),
        _paired_figure(
            FigureName.COST,
            FIGURES[FigureName.COST].unit,
            series,
            lambda unit: price * unit.cost,
            terms,
            condition,
        ),
    )


def _latency_window(session: Session, feeds: Feeds, runs: int) -> Window:
    def window(unit: Unit) -> None:
        for _ in range(runs):
            start = time.perf_counter()
            session.run(feeds, wide=True)
            unit.seconds.append(time.perf_counter() - start)

    return window


def _throughput_window(session: Session, feeds: Feeds, rows: int, window_s: float) -> Window:
    def window(unit: Unit) -> None:
        cpu, start = time.process_time(), time.perf_counter()
        running: set[Future[Any]] = {session.submit(feeds) for _ in range(2 * session.spec.lanes)}
        done = 0
        while running:
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for run in finished:
                run.result()
            done += len(finished)
            if time.perf_counter() - start < window_s:
                running |= {session.submit(feeds) for _ in finished}
        unit.wall_s += time.perf_counter() - start
        unit.cpu_s += time.process_time() - cpu
        unit.items += done * rows

    return window


def _runs_in_window(session: Session, feeds: Feeds, window_s: float) -> int:
    """How many runs fill a window, after warming up."""
    seconds: list[float] = []
    start = time.perf_counter()
    while len(seconds) < 3 or time.perf_counter() - start < window_s:
        begun = time.perf_counter()
        session.run(feeds, wide=True)
        seconds.append(time.perf_counter() - begun)
    return max(1, int(window_s / float(np.median(seconds))))


def _paired_figure(
    name: FigureName, unit: str, series: Series, quantity: Quantity, terms: Terms, condition: str
) -> Figure:
    one = [quantity(original) for original, _ in series.units]
    other = [quantity(variant) for _, variant in series.units]
    alpha = terms.alpha_of_a_look
    return Figure(
        name=name,
        unit=unit,
        samples=len(series.units),
        value=median_interval(other, alpha),
        original=median_interval(one, alpha),
        difference=median_interval([b - a for a, b in zip(one, other, strict=True)], alpha),
        ratio=median_interval(series.ratios(quantity), alpha),
        method=(
            f"median over units, {_METHOD}, at most {len(terms.looks)} looks, "
            f"{series.void} units void"
        ),
        condition=condition,
    )


def tail_figure(series: Series, terms: Terms, condition: str) -> Figure:
    """The median over units of each unit's 99th percentile; no bound where units are short."""
    long = Series(
        units=[pair for pair in series.units if min(map(_runs, pair)) >= RUNS_FOR_P99],
        void=series.void,
    )
    if long.units:
        figure = _paired_figure(
            FigureName.LATENCY_P99, "s", long, lambda unit: unit.p99, terms, condition
        )
        return replace(figure, method=f"each unit's 99th percentile of its runs, {figure.method}")
    one, other = ([run for pair in series.units for run in pair[side].seconds] for side in (0, 1))
    return Figure(
        name=FigureName.LATENCY_P99,
        unit="s",
        samples=0,
        value=Estimate(value=float(np.quantile(other, 0.99))),
        original=Estimate(value=float(np.quantile(one, 0.99))),
        method=f"no unit has {RUNS_FOR_P99} runs, so there is no bound",
        condition=condition,
    )


def _runs(unit: Unit) -> int:
    return len(unit.seconds)
