"""Which recipes there are: from what the steps say of themselves, the model, and the goal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from optimizers.contract.declaration import Range, Value
from optimizers.contract.evidence import Evidence
from optimizers.contract.goal import Goal
from optimizers.contract.recipe import Recipe
from optimizers.contract.search import Search

Choose = Callable[[str, Range], Value]
"""Dimension, what it may be → what it shall be."""


class Space:
    """Every recipe that a search may try; the empty one, the original, is none of them."""

    left_out: Mapping[str, str]
    """Step → why it takes no part."""

    def recipe(self, choose: Choose) -> Recipe:
        """Compose a recipe by asking for one dimension after the other (define by run)."""
        raise NotImplementedError

    def parameters(self, recipe: Recipe) -> dict[str, Value] | None:
        """What `choose` has to answer for a recipe to come out; None outside the space."""
        raise NotImplementedError

    def grid(self) -> Iterator[Recipe]:
        """Every recipe once, in a fixed order; of each range that is a Real, three values."""
        raise NotImplementedError


def space_of(evidence: Evidence, goal: Goal, search: Search) -> Space:
    """The recipes that can help one model towards one goal.

    Raises:
        InvalidDocument: A value of `search.values` does not fit its step, or no step is left.
    """
    raise NotImplementedError
