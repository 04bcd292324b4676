"""A window counts only if the machine was left alone in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from optimizers.evaluation.latency import Unit, Unstable, measure
from optimizers.evaluation.quiet import Quiet, Usage, read_usage

BEFORE = Usage(clock=100.0, busy=50.0, stolen=1.0, own=20.0, processors=2)


def judge(after: Usage) -> bool:
    readings: Iterator[Usage] = iter([BEFORE, BEFORE, after])
    quiet = Quiet(lambda: next(readings))
    quiet.start()
    return quiet.was_quiet()


def test_own_work_does_not_disturb() -> None:
    assert judge(replace(BEFORE, clock=101.0, busy=51.9, own=21.9))


def test_work_of_others_voids_a_window() -> None:
    assert not judge(replace(BEFORE, clock=101.0, busy=51.4, own=21.0))


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

    with pytest.raises(Unstable, match="others used the machine"):
        measure(
            window,
            window,
            lambda unit: unit.median,
            alpha=0.05,
            deadline=read_usage().clock + 0.05,
            quiet=Quiet(busy),
        )
