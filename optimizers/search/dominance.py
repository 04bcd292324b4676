"""Which of several vectors are better than others; every number of them is to be minimised.

Where violations are given, constrained domination holds (Deb et al., A Fast and Elitist
Multiobjective Genetic Algorithm: NSGA-II, 2002, definition 1): what violates less is better,
whatever its vector; among equals, vectors decide.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def fronts(values: ArrayLike, violations: ArrayLike | None = None) -> tuple[tuple[int, ...], ...]:
    """Sort by non-domination.

    Args:
        values: Vectors, shape (count, objectives); infinite where the worst is meant.
        violations: Of each, at least 0, shape (count,); None: nothing is violated.

    Returns:
        Indices: those that nothing dominates, then those that only these dominate, and so on.
    """
    dominates = _dominates(_vectors(values), violations)
    left = np.ones(len(dominates), dtype=bool)
    found = []
    while left.any():
        best = left & ~dominates[left].any(axis=0)
        found.append(tuple(int(index) for index in np.flatnonzero(best)))
        left &= ~best
    return tuple(found)


def front(values: ArrayLike, violations: ArrayLike | None = None) -> tuple[int, ...]:
    """Indices of the vectors that none dominates."""
    return next(iter(fronts(values, violations)), ())


def crowding(values: ArrayLike) -> Floats:
    """How far the neighbours of each vector are from each other.

    The sum over objectives of the distance between the next smaller and the next larger value,
    as a share of the largest distance; infinite at both ends (Deb et al., 2002, section III-B).

    Args:
        values: Vectors of one front, shape (count, objectives), finite or infinite.

    Returns:
        Distances, shape (count,), at least 0.
    """
    vectors = _vectors(values)
    distances = np.zeros(len(vectors))
    for column in vectors.T:
        order = np.argsort(column, kind="stable")
        ranked = column[order]
        distances[order[[0, -1]]] = np.inf
        if np.isfinite(ranked[[0, -1]]).all() and ranked[-1] > ranked[0]:
            span = ranked[-1] - ranked[0]
            distances[order[1:-1]] += (ranked[2:] - ranked[:-2]) / span
    return distances


def ranking(values: ArrayLike, violations: ArrayLike | None = None) -> tuple[int, ...]:
    """All indices, best first: by front, then the least crowded, then as they came."""
    vectors = _vectors(values)
    found: list[int] = []
    for members in fronts(vectors, violations):
        distances = crowding(vectors[list(members)])
        found += [members[index] for index in np.argsort(-distances, kind="stable")]
    return tuple(found)


def hypervolume(values: ArrayLike, reference: Sequence[float]) -> float:
    """Volume of what some vectors dominate, up to a point that is worse than all of interest.

    By exclusive volumes (While, Bradstreet and Barone, A Fast Way of Calculating Exact
    Hypervolumes, 2012): the volume of a set is that of its first vector, less what the others
    share of it, and that of the others.

    Args:
        values: Vectors, shape (count, objectives); those not below the point in every objective
            count for nothing.
        reference: The point, shape (objectives,).
    """
    point = np.asarray(reference, dtype=np.float64)
    vectors = _vectors(values)
    if not len(vectors):
        return 0.0
    return _volume(vectors[(vectors < point).all(axis=1)], point)


def _volume(vectors: Floats, point: Floats) -> float:
    if not len(vectors):
        return 0.0
    vectors = np.unique(vectors[list(front(vectors))], axis=0)
    if vectors.shape[1] == 1:
        return float(point[0] - vectors.min())
    if vectors.shape[1] == 2:
        # Of a front in order of its first objective, each vector adds one rectangle.
        widths = np.append(vectors[1:, 0], point[0]) - vectors[:, 0]
        return float(widths @ (point[1] - vectors[:, 1]))
    total = 0.0
    for index, vector in enumerate(vectors):
        shared = np.maximum(vectors[index + 1 :], vector)
        total += float(np.prod(point - vector)) - _volume(shared, point)
    return total


def _dominates(vectors: Floats, violations: ArrayLike | None) -> NDArray[np.bool_]:
    """Element (i, j): whether i dominates j."""
    one, other = vectors[:, None, :], vectors[None, :, :]
    better = (one <= other).all(axis=2) & (one < other).any(axis=2)
    if violations is None:
        return np.asarray(better)
    missed = np.asarray(violations, dtype=np.float64)
    less, equal = missed[:, None] < missed[None, :], missed[:, None] == missed[None, :]
    return np.asarray(less | (equal & better))


def _vectors(values: ArrayLike) -> Floats:
    vectors = np.asarray(values, dtype=np.float64)
    return vectors.reshape(len(vectors), -1) if vectors.size else np.empty((0, 1))
