"""What runs are believed to cost: always a time, soon the truth, and never upset by one run."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from server.cost import CostCurve, Costs, Measured

POWERS = (1, 2, 4, 8, 16)
MOST_ROWS = POWERS[-1]
MOST_CURVES = 70
seconds = some.floats(1e-6, 10.0)
runs = some.lists(some.tuples(some.integers(1, MOST_ROWS), seconds), max_size=60)
measurements = some.dictionaries(some.integers(1, 40), seconds, max_size=6).flatmap(
    lambda known: seconds.map(lambda one: {**known, 1: one})
)


def curve(known: Mapping[int, float], most: int = MOST_ROWS, observed: bool = True) -> CostCurve:
    return CostCurve(known, most, is_observed=observed)


@settings(deadline=None, derandomize=True)
@given(known=measurements, most=some.integers(1, 20), observed=runs, is_observed=some.booleans())
def test_whatever_was_seen_a_run_takes_time_and_the_knee_is_a_run_that_may_be(
    known: Mapping[int, float], most: int, observed: list[tuple[int, float]], is_observed: bool
) -> None:
    learned = curve(known, most, is_observed)
    for rows, took_s in [(0, 0.0), *observed]:
        if rows:
            learned.observe(rows, took_s)
        assert 1 <= learned.knee <= most
        assert all(learned.seconds(count) > 0 for count in range(1, 2 * most + 2))
        assert learned.row_s > 0
        for there in (1, 2, most):
            assert 1 <= learned.rows_to_try(there) <= min(there, most)
            within = learned.rows_within(1e-3 * there, there)
            assert 1 <= within <= there
            assert within == 1 or learned.seconds(within) <= 1e-3 * there


@settings(deadline=None, derandomize=True)
@given(steps=some.lists(some.floats(0.0, 1.0), min_size=len(POWERS), max_size=len(POWERS)))
def test_if_larger_runs_were_measured_to_take_longer_so_they_are_thought_to(
    steps: list[float],
) -> None:
    known, total = {}, 1e-3
    for rows, step in zip(POWERS, steps, strict=True):
        known[rows] = total = total + step
    thought = [curve(known).seconds(rows) for rows in range(1, 3 * MOST_ROWS)]
    assert all(one <= other * (1 + 1e-9) for one, other in pairwise(thought))


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    known=some.fixed_dictionaries({rows: some.floats(1e-4, 1e-1) for rows in POWERS}),
    fixed_s=some.floats(1e-3, 1e-2),
    row_s=some.just(0.0) | some.floats(1e-5, 1e-2),
    order=some.permutations(range(1, MOST_ROWS + 1)),
)
def test_a_law_is_learned_whatever_was_believed_before(
    known: Mapping[int, float], fixed_s: float, row_s: float, order: list[int]
) -> None:
    learned = curve(known)
    for rows in order * 80:
        learned.observe(rows, fixed_s + rows * row_s)
    for rows in range(1, MOST_ROWS + 1):
        assert learned.seconds(rows) == pytest.approx(fixed_s + rows * row_s, rel=0.05)
    if row_s == 0:
        assert learned.knee == MOST_ROWS


@settings(deadline=None, derandomize=True)
@given(
    known=some.fixed_dictionaries(dict.fromkeys(POWERS, seconds)),
    rows=some.integers(1, MOST_ROWS),
    took_s=seconds,
    asked=some.integers(1, 2 * MOST_ROWS),
)
def test_one_run_moves_no_belief_by_more_than_a_tenth(
    known: Mapping[int, float], rows: int, took_s: float, asked: int
) -> None:
    learned = curve(known)
    before = learned.seconds(asked)
    learned.observe(rows, took_s)
    assert learned.seconds(asked) == pytest.approx(before, rel=0.1 + 1e-9)


@settings(deadline=None, derandomize=True)
@given(fixed_s=some.floats(1e-3, 1.0), row_s=some.floats(0.0, 1.0), rows=some.integers(1, 16))
def test_one_run_that_was_held_up_is_soon_forgotten(
    fixed_s: float, row_s: float, rows: int
) -> None:
    learned = curve({one: fixed_s + one * row_s for one in POWERS})
    learned.observe(rows, 1e3)
    for one in range(1, MOST_ROWS + 1):
        assert learned.seconds(one) == pytest.approx(fixed_s + one * row_s, rel=0.1 + 1e-9)


def test_runs_that_the_straight_line_misjudges_never_make_a_belief_negative() -> None:
    learned = curve({1: 0.5, 2: 1.0, 4: 4.1, 8: 8.2})
    for _ in range(200):
        learned.observe(3, 1.0)
        assert min(learned.seconds(rows) for rows in range(1, 9)) > 0.05
    assert learned.seconds(3) == pytest.approx(1.0, rel=0.05)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(
    odd_rows=some.sampled_from([3, 5, 6, 7]),
    off=some.floats(0.7, 1.3),
    seed=some.integers(0, 1000),
)
def test_sizes_that_are_not_run_stay_where_they_were_beside_those_that_are(
    odd_rows: int, off: float, seed: int
) -> None:
    """Whatever the line between two powers misjudges, again and again, and however noisily."""
    law, noise = {rows: 1e-3 * (1 + rows) for rows in POWERS}, Random(seed)
    learned = curve(law)
    for _ in range(3000):
        learned.observe(odd_rows, off * 1e-3 * (1 + odd_rows) * noise.uniform(0.8, 1.6))
        for rows in (1, 2, 4):
            learned.observe(rows, law[rows] * noise.uniform(0.8, 1.6))
    for rows in (1, 2, 4):
        assert 0.5 * law[rows] < learned.seconds(rows) < 2 * law[rows]
    assert learned.seconds(4) <= learned.seconds(16) <= 3 * 3 * learned.seconds(4) * (1 + 1e-9)


@settings(deadline=None, derandomize=True, max_examples=20)
@given(widths=some.lists(some.integers(1, 10**6), min_size=1, max_size=400))
def test_however_many_shapes_come_few_curves_are_kept_and_the_usual_one_among_them(
    widths: list[int],
) -> None:
    costs = Costs(Measured(seconds={1: 1e-3}, row_bytes=4, shapes=((1,),)), MOST_ROWS)
    for width in [*widths, *range(100)]:
        made = costs.curve(((width,),), 4 * width, 1)
        assert costs.curve(((width,),), 4 * width, 1) is made
        assert made.seconds(1) >= costs.usual.seconds(1)
    assert len(costs._curves) <= MOST_CURVES
    assert costs.curve(((1,),), 4, 1) is costs.usual
