"""Which single places along the axes of a model's tensors have to go or stay together."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Labels: TypeAlias = NDArray[np.int64]
"""One element for every place along an axis."""


class Elements:
    """Disjoint sets of elements (union-find); a set may be frozen, with the reason why."""

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._reasons: dict[int, str] = {}

    def fresh(self, count: int) -> Labels:
        """New elements, each in a set of its own."""
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return np.arange(first, first + count)

    def tie(self, one: Labels, other: Labels) -> None:
        """Join the sets of elements at the same place.

        Raises:
            ValueError: The axes differ in length.
        """
        for first, second in zip(one.tolist(), other.tolist(), strict=True):
            self._join(self._root(first), self._root(second))

    def freeze(self, labels: Labels, reason: str) -> None:
        """Keep these and everything tied to them, now or later; the first reason counts."""
        for element in labels.tolist():
            self._reasons.setdefault(self._root(element), reason)

    def roots(self, labels: Labels) -> Labels:
        """For every element the one that stands for its set."""
        return np.array([self._root(element) for element in labels.tolist()], np.int64)

    def all_roots(self) -> Labels:
        """The same for all elements there are: element → root."""
        return self.roots(np.arange(len(self._parents)))

    def reason(self, element: int) -> str | None:
        """Why an element's set is frozen; None if it is not."""
        return self._reasons.get(self._root(element))

    def _join(self, one: int, other: int) -> None:
        if one == other:
            return
        self._parents[other] = one
        reason = self._reasons.pop(other, None)
        if reason is not None:
            self._reasons.setdefault(one, reason)

    def _root(self, element: int) -> int:
        parents = self._parents
        while parents[element] != element:
            parents[element] = parents[parents[element]]
            element = parents[element]
        return element
