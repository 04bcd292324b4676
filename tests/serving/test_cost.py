"""What runs are believed to cost stays a time, whatever they took."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.cost import CostCurve, Measured, Width

SECONDS = st.floats(1e-9, 100.0)


@given(
    measured=st.dictionaries(st.integers(1, 32), SECONDS).map(lambda rest: {1: 1e-3, **rest}),
    runs=st.lists(st.tuples(st.integers(1, 32), SECONDS), max_size=100),
)
def test_any_runs_leave_every_cost_above_nothing(
    measured: dict[int, float], runs: list[tuple[int, float]]
) -> None:
    curve = CostCurve(measured, 32, is_observed=True)
    for rows, seconds in runs:
        curve.observe(rows, seconds)
    assert all(curve.seconds(rows) > 0 for rows in range(1, 33))
    assert 1 <= curve.knee <= 32
    assert curve.row_s > 0


def test_a_short_run_between_a_cheap_size_and_a_dear_one_is_no_gift() -> None:
    """Two rows are fast and four are slow: three fast ones say little about the two."""
    curve = CostCurve({1: 1e-6, 2: 1e-6, 4: 1e-3}, 32, is_observed=True)
    for _ in range(16):
        curve.observe(3, 1e-7)
    assert 0 < curve.seconds(2) < 1e-6
    assert 0 < curve.seconds(4) < 1e-3


def test_a_busy_moment_makes_no_size_look_worse_than_another() -> None:
    """Eight rows together are worth it; while the machine is slow they take three times as long."""
    curve = CostCurve({1: 1.0, 2: 1.9, 4: 3.7, 8: 7.2}, 8, is_observed=True)
    for _ in range(16):
        curve.observe(8, 3 * 7.2)
    assert curve.knee == 8
    assert curve.seconds(8) == pytest.approx(3 * 7.2, rel=0.1)
    assert curve.seconds(1) == pytest.approx(3.0, rel=0.1)
    assert curve.row_s == pytest.approx(3 * 0.9, rel=0.1)


def test_a_size_that_is_found_to_be_cheaper_is_taken() -> None:
    curve = CostCurve({1: 1.0, 2: 2.0}, 8, is_observed=True)
    sizes = [curve.rows_to_try(8) for _ in range(2000)]
    assert set(sizes) == {1, 2}
    for _ in range(2000):
        rows = curve.rows_to_try(8)
        curve.observe(rows, 0.5 + 0.5 * rows)
    assert curve.knee == 8


def alone(width: Width, runs: int, wide_s: Callable[[], float], narrow_s: float) -> list[bool]:
    """A caller who is alone asks again and again; which of its runs were wide."""
    chosen = []
    for _ in range(runs):
        wide = width.pays()
        chosen.append(wide)
        if wide:
            width.observe(wide_s() / narrow_s)
    return chosen


def test_a_caller_who_is_alone_keeps_the_faster_width_though_others_get_in_its_way() -> None:
    draw = random.Random(0)
    width = Width(0.6)

    def disturbed() -> float:
        return 0.6 * (draw.uniform(1.5, 4) if draw.random() < 0.25 else draw.uniform(0.9, 1.1))

    assert sum(alone(width, 2000, disturbed, 1.0)) > 0.9 * 2000


def test_a_width_that_is_slower_is_tried_seldom() -> None:
    draw = random.Random(0)
    for ratio in (0.5, 1.5):  # whatever it looked like at first
        chosen = alone(Width(ratio), 2000, lambda: draw.uniform(1.1, 1.5), 1.0)
        assert 0.02 * 2000 < sum(chosen) < 0.1 * 2000


def test_a_first_look_that_was_wrong_and_a_machine_that_became_slower_are_soon_forgotten() -> None:
    assert all(alone(Width(2.0), 40, lambda: 0.6, 1.0)[8:39])
    width = Width(0.6)
    # All runs take twice as long as they did when narrow ones were measured last…
    while width.is_faster:
        alone(width, 1, lambda: 1.2, 1.0)
    # …and so do the narrow ones that follow.
    assert all(alone(width, 30, lambda: 1.2, 2.0)[4:])


def test_the_cheapest_row_is_looked_for_where_runs_are_short_enough_and_rows_may_join() -> None:
    measured = Measured(seconds={1: 4.0, 2: 5.0, 8: 6.0, 32: 16.0}, row_bytes=4, shapes=((1,),))
    assert measured.cheapest_row_s(10.0, 32) == 6.0 / 8
    assert measured.cheapest_row_s(16.0, 32) == 0.5
    assert measured.cheapest_row_s(16.0, 2) == 2.5
    assert measured.cheapest_row_s(16.0, 1) == 4.0
    assert measured.cheapest_row_s(3.9, 32) == math.inf
