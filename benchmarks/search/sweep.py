"""What every recipe of a grid came to at every level, and what that took: written once, replayed.

A sweep lies in one file, a line for what it is of and one for each piece of work.

Recipes that begin alike share their beginning, in a search as in a sweep, by the cache of
artefacts. So that a search pays for what it would have had to build, and for nothing that it had
built already, each piece of work says which beginnings of recipes it was the first to make: what
these took is charged to whoever needs them first.

Two sessions of one file differ by some percent, and the best of many recipes would be the luckiest
one. So the structure of each is measured in two passes over the grid, and the worse one counts: a
recipe is worth what it showed twice.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Final

from pydantic import TypeAdapter, ValidationError

from optimizers.contract.directory import write_atomically
from optimizers.contract.errors import InvalidData
from optimizers.contract.evaluation import Figure
from optimizers.contract.evidence import Evidence
from optimizers.contract.goal import Goal
from optimizers.contract.profile import StoredProfile
from optimizers.contract.recipe import Recipe, StoredRecipe
from optimizers.contract.search import Search
from optimizers.contract.study import Trial, TrialState
from optimizers.search.evaluator import Level
from optimizers.search.ladder import Ladder
from optimizers.search.levels import at_level
from optimizers.search.objectives import objectives, violation
from optimizers.search.outcome import Outcome, outcome
from optimizers.search.records import recipe_key
from optimizers.search.space import Space, space_of

BUDGET: Final = 0.25
"""Share of a sweep's trials, and of its time, that a search has to do with."""
PASSES: Final = 2
"""How often the structure of each recipe is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One recipe at one level.

    Attributes:
        recipe: Which.
        level: How far it was taken.
        figures: What was measured, beside the original.
        broken: Why nothing came of it; "" where something did.
        building_s: Seconds of building what was not there yet, and of looking for it.
        measuring_s: Seconds of measuring.
        made: Beginnings of what is built at this level, as `beginnings` writes them, that this
            piece was the first to make.
    """

    recipe: StoredRecipe
    level: Level
    figures: tuple[Figure, ...]
    broken: str
    building_s: float
    measuring_s: float
    made: tuple[str, ...]

    @property
    def is_there(self) -> bool:
        """Whether steps are run for it, all of which had been run before."""
        return not self.made and bool(beginnings(self.recipe, self.level))


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """All of one model's grid.

    Attributes:
        model: Name of the subject.
        about: What it is, with its data.
        items: Kind of data → how many items.
        profile: Its goal has the task's floors; its search is the grid.
        evidence: What a planner goes by.
        original_sha256: Digest of the model.
        machine: What it ran on, for people.
        versions: Package → version.
        when: The day on which it was begun.
        pieces: In the order in which they were tried.
    """

    model: str
    about: str
    items: Mapping[str, int]
    profile: StoredProfile
    evidence: Evidence
    original_sha256: str
    machine: str
    versions: Mapping[str, str]
    when: str
    pieces: tuple[Piece, ...] = ()

    @property
    def goal(self) -> Goal:
        """With the task's floors; of all aims."""
        return self.profile.goal

    @property
    def search(self) -> Search:
        """The grid, and what a search over it may spend: a share of what the sweep took."""
        assert self.profile.search is not None
        return replace(
            self.profile.search,
            trials=max(1, int(BUDGET * len(self.recipes))),
            minutes=BUDGET * self.seconds / 60,
        )

    @cached_property
    def space(self) -> Space:
        """Every recipe that may be proposed."""
        assert self.profile.search is not None
        return space_of(self.evidence, self.goal, self.profile.search)

    @cached_property
    def recipes(self) -> tuple[Recipe, ...]:
        """The grid, those with fewer steps first: whatever a recipe begins with comes before it."""
        return tuple(sorted(self.space.grid(), key=lambda recipe: len(recipe.steps)))

    @property
    def work(self) -> Iterable[tuple[Recipe, Level]]:
        """Every piece of work that there is, in order."""
        ladder = Ladder()
        for recipe in self.recipes:
            for level in ladder.levels(0, recipe):
                yield recipe, level

    @property
    def missing(self) -> Iterable[tuple[Recipe, Level]]:
        """Every piece of work that is not done yet, in order: all levels, then further passes."""
        done = Counter((recipe_key(piece.recipe), piece.level) for piece in self.pieces)
        for count in range(1, PASSES + 1):
            for recipe, level in self.work:
                once = count == 1 or level.is_structure
                if once and done[recipe_key(recipe), level] < count:
                    yield recipe, level

    @cached_property
    def found(self) -> Mapping[tuple[str, Level], Piece]:
        """What counts of each piece that was tried: of several passes the worst one."""
        passes: dict[tuple[str, Level], list[Piece]] = defaultdict(list)
        for piece in self.pieces:
            passes[recipe_key(piece.recipe), piece.level].append(piece)
        return {
            key: max(pieces, key=lambda piece: objectives(self.goal, piece.figures)[0])
            for key, pieces in passes.items()
        }

    @property
    def is_complete(self) -> bool:
        """Whether every recipe was tried at every level, and as often as it has to be."""
        return not any(True for _ in self.missing)

    @cached_property
    def look_s(self) -> float:
        """Seconds of building where all is there already."""
        looked = [one.building_s for one in self.pieces if one.is_there]
        return median(looked) if looked else 0.0

    @cached_property
    def building_s(self) -> Mapping[str, float]:
        """Beginning of a recipe → seconds that its last step takes."""
        return {
            beginning: max(0.0, piece.building_s - self.look_s) / len(piece.made)
            for piece in self.pieces
            for beginning in piece.made
        }

    def trials(self, goal: Goal) -> tuple[Trial, ...]:
        """Every recipe as a trial that was taken to its end, in the order of `recipes`."""
        return tuple(
            self._trial(number, recipe, goal) for number, recipe in enumerate(self.recipes)
        )

    def outcome(self, goal: Goal) -> Outcome:
        """The best that there is, for a goal of some of the aims."""
        return outcome(goal, self.trials(goal))

    @cached_property
    def seconds(self) -> float:
        """What trying every recipe takes: its structure and all of its training, nothing between.

        Levels between those are for searches, which give up there; nobody who tries everything
        would stop on the way.
        """
        there: set[str] = set()
        total = 0.0
        for recipe in self.recipes:
            levels = Ladder().levels(0, recipe)
            for level in (levels[0], levels[-1]):
                total += self.charge(recipe, level, there)
        return total

    def charge(self, recipe: Recipe, level: Level, there: set[str]) -> float:
        """Seconds of one piece of work for somebody who has built some beginnings.

        Args:
            recipe: Which.
            level: How far it is taken.
            there: What was built; what this piece builds is added.
        """
        wanted = beginnings(recipe, level)
        needed = [one for one in wanted if one not in there]
        there.update(needed)
        building = sum(self.building_s.get(one, 0.0) for one in needed)
        measuring = self.found[recipe_key(recipe), level].measuring_s
        return (self.look_s if wanted else 0.0) + building + measuring

    def _trial(self, number: int, recipe: Recipe, goal: Goal) -> Trial:
        levels = Ladder().levels(number, recipe)
        first, last = (self.found[recipe_key(recipe), level] for level in (levels[0], levels[-1]))
        figures = (*first.figures, *last.figures)
        broken = first.broken or last.broken
        return Trial(
            number=number,
            recipe=recipe,
            origin="sweep",
            state=TrialState.FAILED if broken else TrialState.COMPLETE,
            level=len(levels),
            levels=len(levels),
            figures=figures,
            violation=violation(goal, figures),
            reason=broken,
        )

    def told_only(self, asked: Iterable[tuple[Recipe, Level]]) -> Sweep:
        """The same where every piece that was not asked for came to nothing."""
        kept = {(recipe_key(recipe), level) for recipe, level in asked}
        return replace(
            self,
            pieces=tuple(
                piece
                if (recipe_key(piece.recipe), piece.level) in kept
                else replace(piece, figures=(), broken="nobody asked")
                for piece in self.pieces
            ),
        )


def beginnings(recipe: Recipe, level: Level) -> tuple[str, ...]:
    """Everything that is built on the way to a recipe at a level, shortest first."""
    steps = at_level(recipe, level).steps
    return tuple(recipe_key(Recipe(steps=steps[:count])) for count in range(1, len(steps) + 1))


_SWEEP: Final = TypeAdapter(Sweep)
_PIECE: Final = TypeAdapter(Piece)


def begin_sweep(file: Path, sweep: Sweep) -> None:
    """Write the first line: all but the pieces."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, _SWEEP.dump_json(replace(sweep, pieces=())) + b"\n")


def append_piece(file: Path, piece: Piece) -> None:
    """Add a line."""
    with file.open("ab") as target:
        target.write(_PIECE.dump_json(piece) + b"\n")


def read_sweep(file: Path) -> Sweep | None:
    """Read what there is of one; None where there is none.

    Raises:
        InvalidData: It is none.
    """
    try:
        first, *rest = file.read_bytes().splitlines()
    except FileNotFoundError:
        return None
    try:
        return replace(_SWEEP.validate_json(first), pieces=tuple(map(_PIECE.validate_json, rest)))
    except ValidationError as error:
        raise InvalidData(f"{file.name} is no sweep of these versions: {error}") from error
