"""Sorting, crowding and volume agree with their definitions, worked out the slow way."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizers.search.dominance import crowding, front, fronts, hypervolume, ranking

SIDE = 5
VECTORS = st.integers(1, 3).flatmap(
    lambda size: st.lists(st.tuples(*[st.integers(0, SIDE)] * size), min_size=1, max_size=9)
)
VIOLATIONS = st.lists(st.sampled_from([0, 0, 1, 2]), min_size=9, max_size=9)


def dominates(one: tuple[int, ...], other: tuple[int, ...], less: int, more: int) -> bool:
    if less != more:
        return less < more
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


@given(VECTORS, VIOLATIONS)
def test_fronts_are_peeled_one_by_one(vectors: list[tuple[int, ...]], missed: list[int]) -> None:
    left = set(range(len(vectors)))
    expected = []
    while left:
        best = {
            one
            for one in left
            if not any(
                dominates(vectors[other], vectors[one], missed[other], missed[one])
                for other in left
            )
        }
        expected.append(tuple(sorted(best)))
        left -= best
    assert fronts(vectors, missed[: len(vectors)]) == tuple(expected)
    assert front(vectors, missed[: len(vectors)]) == expected[0]


@given(VECTORS)
def test_a_volume_is_the_cells_that_something_dominates(vectors: list[tuple[int, ...]]) -> None:
    size = len(vectors[0])
    reference = [SIDE - 1.0] * size
    cells = itertools.product(range(SIDE - 1), repeat=size)
    expected = sum(
        any(all(a <= b for a, b in zip(vector, cell, strict=True)) for vector in vectors)
        for cell in cells
    )
    assert hypervolume(vectors, reference) == pytest.approx(expected)


def test_the_volume_of_nothing_is_nothing() -> None:
    assert hypervolume([], [1.0, 1.0]) == 0
    assert hypervolume([(2.0, 0.0)], [1.0, 1.0]) == 0
    assert fronts([]) == ()
    assert front([]) == ()


def test_crowding_is_the_distance_of_the_neighbours() -> None:
    # Worked out by hand: spans 4 and 10; the second has neighbours 0 and 3, 10 and 1.
    distances = crowding([(0.0, 10.0), (1.0, 4.0), (3.0, 1.0), (4.0, 0.0)])
    assert distances == pytest.approx([np.inf, 3 / 4 + 9 / 10, 3 / 4 + 4 / 10, np.inf])


def test_infinite_values_are_sorted_too() -> None:
    assert fronts([(np.inf, 1.0), (0.0, np.inf), (0.0, 2.0)]) == ((0, 2), (1,))
    assert list(crowding([(np.inf, 1.0), (0.0, 2.0), (np.inf, 0.0)])) == [1.0, np.inf, np.inf]


def test_who_is_least_crowded_comes_first_in_a_front() -> None:
    vectors = [(1.0, 4.0), (0.0, 10.0), (4.0, 0.0), (3.0, 1.0), (9.0, 9.0)]
    assert ranking(vectors) == (1, 2, 0, 3, 4)


def test_violations_count_before_values() -> None:
    assert ranking([(0.0,), (5.0,), (1.0,)], [2.0, 0.0, 1.0]) == (1, 2, 0)
