"""Timing a candidate stops when the question is settled, and keeps what it had when time is up."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from optimizers.contract.evaluation import Estimate
from optimizers.contract.goal import FigureName, Goal, parse_requirement
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.evaluation.bounds import median_interval
from optimizers.evaluation.findings import Findings
from optimizers.evaluation.quiet import Quiet, Usage
from optimizers.evaluation.series import Terms, Unit, Unstable, measure
from optimizers.pausing import PAUSES_VARIABLE, note_begin, note_end
from optimizers.search.timing import LOOKS, TIMING, Stopwatch, settles
from tests.support import models

LATENCY = (FigureName.LATENCY_P50, FigureName.LATENCY_P99)
SIZE = (FigureName.SIZE,)


def undisturbed() -> Usage:
    return Usage(clock=0.0, busy=0.0, stolen=0.0, own=0.0, processors=1)


def ratio(lower: float | None, upper: float | None) -> Estimate:
    return Estimate(value=1.0, lower=lower, upper=upper)


def is_settled(goal: Goal, one: Estimate) -> bool:
    return settles(goal, LATENCY[0], LATENCY)(one)


def goal_of(*require: str, aims: tuple[FigureName, ...] = SIZE) -> Goal:
    return Goal(optimize=aims, require=tuple(parse_requirement(one) for one in require))


def test_a_requirement_that_is_surely_missed_settles_whatever_else_is_asked() -> None:
    goal = goal_of("latency_p50 <= 10 % worse", "latency_p50 <= 1 s", "latency_p99 <= 1 s")
    assert is_settled(goal, ratio(1.11, 1.5))
    assert not is_settled(goal, ratio(1.09, 1.5))
    assert not is_settled(goal, ratio(0.5, 1.0))


def test_an_aim_is_settled_only_where_it_surely_is_not_better() -> None:
    goal = Goal()
    assert is_settled(goal, ratio(0.99, 1.5))
    assert not is_settled(goal, ratio(0.97, 1.5))
    assert not is_settled(goal, ratio(0.5, 0.6)), "how much better decides who wins"


def test_relative_requirements_alone_are_settled_when_each_is_held_or_missed() -> None:
    goal = goal_of("latency_p50 <= 10 % worse")
    assert is_settled(goal, ratio(0.9, 1.1))
    assert not is_settled(goal, ratio(0.9, 1.11))
    assert not is_settled(goal, ratio(None, None))
    wanted = replace(goal, stop_when=(parse_requirement("latency_p50 >= 50 % better"),))
    assert not is_settled(wanted, ratio(0.4, 0.6))
    assert is_settled(wanted, ratio(0.4, 0.5))
    assert not is_settled(goal_of("latency_p50 <= 10 % worse", "latency_p99 <= 1 s"), ratio(0.9, 1))
    second = goal_of("latency_p50 <= 10 % worse", aims=(*SIZE, FigureName.LATENCY_P50))
    assert not is_settled(second, ratio(0.9, 1.0))


def terms(seconds: float, alpha: float = 0.05) -> Terms:
    return Terms(
        alpha=alpha,
        deadline=time.monotonic() + seconds,
        quiet=Quiet(1, undisturbed),
        timing=replace(TIMING, precise=0.0),
        looks=LOOKS,
        keeps_unfinished=True,
    )


def window_of(unit: Unit) -> None:
    unit.seconds.append(1.0)


def test_what_was_had_when_time_is_up_counts_and_nothing_had_is_no_figure() -> None:
    slow = terms(0.05)

    def slowly(unit: Unit) -> None:
        time.sleep(0.004)
        unit.seconds.append(1.0)

    series = measure(slowly, slowly, lambda unit: unit.median, slow)
    assert 1 <= len(series.units) < LOOKS[-1]
    with pytest.raises(Unstable, match="only 0 quiet measurements"):
        measure(window_of, window_of, lambda unit: unit.median, terms(-1.0))


def test_a_wide_interval_after_the_last_look_stays_wide() -> None:
    random = np.random.default_rng(3)

    def window(unit: Unit) -> None:
        unit.seconds.append(float(random.lognormal(0.0, 2.0)))

    series = measure(window, window, lambda unit: unit.median, terms(60.0))
    assert len(series.units) == LOOKS[-1]


def test_bounds_of_short_timing_are_wrong_no_more_often_than_stated() -> None:
    """Stopping at a look or when time is up flatters nobody: alpha is shared by all of them."""
    random = np.random.default_rng(5)

    def window(unit: Unit) -> None:
        unit.seconds.append(float(random.lognormal(0.0, 0.05)))

    called_faster, alpha = 0, 0.05
    for _ in range(300):
        asked = replace(terms(60.0, alpha), timing=replace(TIMING, precise=0.02))
        series = measure(window, window, lambda unit: unit.seconds[0], asked)
        found = median_interval(series.ratios(lambda unit: unit.seconds[0]), asked.alpha_of_a_look)
        called_faster += found.upper is not None and found.upper < 1
    # 300 trials at 0.05: 15 expected at most, 25 with probability below 1 in 100.
    assert called_faster <= 25
    assert terms(1.0, alpha).alpha_of_a_look == pytest.approx(alpha / 4)


def busy() -> Usage:
    """Others use every processor all of the time."""
    now = time.monotonic()
    return Usage(clock=now, busy=2 * now, stolen=0.0, own=0.0, processors=2)


def test_pauses_that_are_over_give_no_more_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note_begin(tmp_path / "pauses")
    note_end(tmp_path / "pauses", 30.0)
    monkeypatch.setenv(PAUSES_VARIABLE, str(tmp_path / "pauses"))
    model = models.perceptron(tmp_path / "net.onnx")
    findings = Findings(goal=Goal(), alpha=0.05)
    stopwatch = Stopwatch(goal=Goal(), cpus=2, price=1.0, seconds=0.5, quiet=Quiet(2, busy))
    with (
        closing(Session(model, SessionSpec())) as one,
        closing(Session(model, SessionSpec())) as two,
    ):
        began = time.monotonic()
        stopwatch.measure((one, two), None, 1, findings)
    assert time.monotonic() - began < 20
    assert FigureName.LATENCY_P50 in findings.missing
    assert not findings.figures
