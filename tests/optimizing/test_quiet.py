"""A window counts only if the machine was left alone in it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from optimizers.evaluation.quiet import Quiet, Usage, read_usage
from optimizers.evaluation.series import LOOKS, Terms, Timing, Unit, Unstable, measure

BEFORE = Usage(clock=100.0, busy=50.0, stolen=1.0, own=20.0, processors=2)


def judge(after: Usage, cpus: int = 2) -> bool:
    readings: Iterator[Usage] = iter([replace(BEFORE, processors=after.processors), BEFORE, after])
    quiet = Quiet(cpus, lambda: next(readings))
    quiet.start()
    return quiet.was_quiet()


def rest_after(others_s: float, processors: int = 2) -> float:
    """Seconds of rest after a window of one second in which others worked for so long."""
    after = replace(BEFORE, clock=101.0, busy=51.0 + others_s, own=21.0, processors=processors)
    readings: Iterator[Usage] = iter([replace(BEFORE, processors=processors), BEFORE, after])
    quiet = Quiet(2, lambda: next(readings))
    quiet.start()
    assert quiet.was_quiet()
    began = time.monotonic()
    quiet.give_way(0.05, time.monotonic() + 60)
    return time.monotonic() - began


def test_whoever_answers_beside_a_measurement_is_given_time() -> None:
    assert rest_after(0.12) >= 0.2, "four times what was measured"
    assert rest_after(0.02) < 0.1, "a machine's own housekeeping"
    assert rest_after(0.9, processors=3) < 0.1, "others have a processor to themselves"


def test_giving_way_ends_with_the_time_allowed() -> None:
    after = replace(BEFORE, clock=101.0, busy=51.2, own=21.0)
    readings: Iterator[Usage] = iter([BEFORE, BEFORE, after])
    quiet = Quiet(2, lambda: next(readings))
    quiet.start()
    assert quiet.was_quiet()
    began = time.monotonic()
    quiet.give_way(30.0, time.monotonic() + 0.1)
    assert time.monotonic() - began < 5


def test_own_work_does_not_disturb() -> None:
    assert judge(replace(BEFORE, clock=101.0, busy=51.9, own=21.9))


def test_work_of_others_voids_a_window() -> None:
    assert not judge(replace(BEFORE, clock=101.0, busy=51.4, own=21.0))


def test_others_may_use_the_processors_that_are_not_handed_out() -> None:
    after = replace(BEFORE, clock=101.0, busy=56.9, own=22.0, processors=8)
    assert judge(after, cpus=2), "4.9 of 6 processors are theirs, and a quarter"
    assert not judge(after, cpus=4)
    assert judge(replace(after, busy=52.2, processors=2), cpus=4), "more handed out than there are"


def test_stolen_time_voids_a_window() -> None:
    assert not judge(replace(BEFORE, clock=101.0, busy=51.0, own=21.0, stolen=1.3))


def test_the_kernel_is_read() -> None:
    one = read_usage()
    total = sum(index * index for index in range(300_000))
    other = read_usage()
    assert total > 0
    assert other.clock > one.clock
    assert other.own > one.own
    assert other.processors >= 1


def test_a_machine_that_never_rests_is_reported_and_nothing_guessed() -> None:
    clock = iter(range(10**9))

    def busy() -> Usage:
        seconds = float(next(clock))
        return Usage(clock=seconds, busy=2 * seconds, stolen=0.0, own=0.0, processors=2)

    def window(unit: Unit) -> None:
        unit.seconds.append(1.0)

    told: list[float] = []
    terms = Terms(
        alpha=0.05,
        deadline=read_usage().clock + 0.05,
        quiet=Quiet(2, busy),
        share=told.append,
    )
    with pytest.raises(Unstable, match="others used the machine"):
        measure(window, window, lambda unit: unit.median, terms)
    assert told, "who waits for quiet is told so, or it is taken for a hang"
    assert set(told) == {0.0}


def measured(spread: float, timing: Timing) -> tuple[int, list[float]]:
    """How many units a quantity took that scatters by `spread`, and what was reported."""
    random = np.random.default_rng(0)
    told: list[float] = []

    def window(unit: Unit) -> None:
        unit.seconds.append(float(random.lognormal(0.0, spread)))

    def still() -> Usage:
        return BEFORE

    terms = Terms(
        alpha=0.05, deadline=float("inf"), quiet=Quiet(2, still), timing=timing, share=told.append
    )
    series = measure(window, window, lambda unit: unit.seconds[0], terms)
    return len(series.units), told


def test_a_steady_ratio_is_known_at_the_first_look() -> None:
    count, told = measured(0.0, Timing())
    assert count == LOOKS[0]
    assert told[-1] == LOOKS[0] / LOOKS[-1]


def test_measuring_ends_at_the_last_look_whatever_it_shows() -> None:
    count, told = measured(0.2, Timing(unstable=1.0))
    assert count == LOOKS[-1]
    assert told == sorted(told)
    assert told[-1] == 1.0
    with pytest.raises(Unstable, match=r"after 128 quiet measurements"):
        measured(0.3, Timing())
