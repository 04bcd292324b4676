"""Which recipes there are: from what the steps say of themselves, the model, and the goal.

A recipe is composed by answering questions (define by run): for each place of a recipe with at
most one step, which one (`place.train` → `none` or a step); for every other step, whether it is in
(`merge` → a bool); then the parameters of what is in (`prune_channels.ratio` → a value). What gains
nothing by itself is asked last, and only where what it gains by is in. Steps stand in a recipe by
their place, whatever the order of the questions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from optimizers.contract.declaration import ONE_OF_A_PLACE, Choice, Range, Value
from optimizers.contract.errors import InvalidDocument
from optimizers.contract.evidence import Evidence
from optimizers.contract.goal import Goal
from optimizers.contract.recipe import Recipe
from optimizers.contract.search import Search
from optimizers.contract.steps import STEPS_BY_NAME, step_name
from optimizers.search.applicable import only_with, taking_part
from optimizers.search.ranges import points, step_with, value_of, within

Choose = Callable[[str, Range], Value]
"""Dimension, what it may be → what it shall be."""

NONE: Final = "none"
"""No step of a place."""
_SHAPING: Final = ("drop_layers", "drop_heads", "prune_channels", "low_rank", "grow")
"""Whole blocks first: what follows would hide what they are recognised by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slot:
    """One question on steps.

    Attributes:
        dimension: Its name.
        steps: Which steps the answer may bring in, one of them at most.
        is_place: Whether the answer is a step's name, otherwise it is a bool.
        only_with: Asked where one of these is in; empty: always.
    """

    dimension: str
    steps: tuple[str, ...]
    is_place: bool
    only_with: frozenset[str] = frozenset()

    @property
    def choice(self) -> Choice:
        """What the answer may be."""
        return Choice((NONE, *self.steps) if self.is_place else (False, True))


class _Outside(Exception):
    """A recipe is none of a space's."""


class Space:
    """Every recipe that a search may try; the empty one, the original, is none of them.

    Args:
        ranges: Step → parameter → what is tried, of every step that takes part.
        left_out: Step → why it takes no part.
    """

    def __init__(
        self, ranges: Mapping[str, Mapping[str, Range]], left_out: Mapping[str, str]
    ) -> None:
        self.left_out = left_out
        self._ranges = {name: ranges[name] for name in sorted(ranges, key=_order)}
        self._slots = _slots(self._ranges)

    @property
    def steps(self) -> tuple[str, ...]:
        """Which steps take part, in the order in which they stand in recipes."""
        return tuple(self._ranges)

    @property
    def dimensions(self) -> dict[str, Range]:
        """Every question that is ever asked, in order, and what its answer may be."""
        found: dict[str, Range] = {}
        for slot in self._slots:
            found[slot.dimension] = slot.choice
            for name in slot.steps:
                for parameter, one in self._ranges[name].items():
                    if not _is_settled(one):
                        found[f"{name}.{parameter}"] = one
        return found

    def recipe(self, choose: Choose) -> Recipe:
        """Compose a recipe; it may turn out empty.

        Args:
            choose: Answers one question after the other; what is asked depends on what was
                answered before, what an answer may be never does.
        """
        values: dict[str, dict[str, Value]] = {}
        for slot in self._slots:
            if slot.only_with and not slot.only_with & values.keys():
                continue
            answer = choose(slot.dimension, slot.choice)
            if answer in (NONE, False):
                continue
            name = str(answer) if slot.is_place else slot.dimension
            values[name] = {
                parameter: points(one)[0]
                if _is_settled(one)
                else choose(f"{name}.{parameter}", one)
                for parameter, one in self._ranges[name].items()
            }
        return Recipe(steps=tuple(step_with(name, values[name]) for name in self._in(values)))

    def parameters(self, recipe: Recipe) -> dict[str, Value] | None:
        """What `choose` has to answer for a recipe to come out.

        Returns:
            Dimension → answer, only of what is asked; None where the recipe is not of this space.
        """
        inside = {step_name(step): step for step in recipe.steps}
        answers: dict[str, Value] = {}

        def choose(dimension: str, one: Range) -> Value:
            name, _, parameter = dimension.partition(".")
            given: Value
            if name == "place":
                slot = next(slot for slot in self._slots if slot.dimension == dimension)
                given = next((step for step in slot.steps if step in inside), NONE)
            elif parameter:
                given = value_of(inside[name], parameter)
            else:
                given = name in inside
            answer = within(one, given)
            if answer is None:
                raise _Outside
            answers[dimension] = answer
            return answer

        try:
            comes_out = recipe.steps and self.recipe(choose) == recipe
        except _Outside:
            return None
        return answers if comes_out else None

    def grid(self) -> Iterator[Recipe]:
        """Every recipe once, in a fixed order; of each range between numbers, three values."""
        prefix: list[int] = []
        while True:
            path: list[tuple[int, int]] = []

            def choose(
                dimension: str,
                one: Range,
                path: list[tuple[int, int]] = path,
                prefix: list[int] = prefix,
            ) -> Value:
                found = points(one)
                index = prefix[len(path)] if len(path) < len(prefix) else 0
                path.append((index, len(found)))
                return found[index]

            recipe = self.recipe(choose)
            if recipe.steps:
                yield recipe
            while path and path[-1][0] + 1 == path[-1][1]:
                path.pop()
            if not path:
                return
            prefix = [index for index, _ in path]
            prefix[-1] += 1

    def _in(self, values: Mapping[str, object]) -> tuple[str, ...]:
        return tuple(name for name in self._ranges if name in values)


def space_of(evidence: Evidence, goal: Goal, search: Search) -> Space:
    """The recipes that can help one model towards one goal.

    Raises:
        InvalidDocument: A value of `search.values` does not fit its parameter, or no step takes
            part.
    """
    inside, outside = taking_part(evidence, goal, search)
    if not inside:
        named = {name: why for name, why in outside.items() if name in search.steps} or outside
        reasons = "; ".join(f"{name}: {why}" for name, why in named.items())
        raise InvalidDocument(f"the search has no step to try: {reasons}")
    return Space(inside, outside)


def _slots(ranges: Mapping[str, Mapping[str, Range]]) -> tuple[_Slot, ...]:
    """The questions on steps, what depends on others last."""
    places: dict[str, list[str]] = {}
    for name in ranges:
        place = STEPS_BY_NAME[name].declares.place
        key = f"place.{place.name.lower()}" if place in ONE_OF_A_PLACE else name
        places.setdefault(key, []).append(name)
    slots = [
        _Slot(
            dimension=dimension,
            steps=tuple(names),
            is_place=dimension.startswith("place."),
            only_with=frozenset().union(*(only_with(name, ranges) or () for name in names)),
        )
        for dimension, names in places.items()
    ]
    return tuple(sorted(slots, key=lambda slot: bool(slot.only_with)))


def _order(name: str) -> tuple[int, int]:
    place = STEPS_BY_NAME[name].declares.place
    order = _SHAPING if name in _SHAPING else tuple(STEPS_BY_NAME)
    return place, order.index(name)


def _is_settled(one: Range) -> bool:
    return isinstance(one, Choice) and len(one.values) == 1
