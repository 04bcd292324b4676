"""What a search asks of whoever tries a recipe: build it as far as a level says, and measure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from optimizers.contract.errors import HoneError
from optimizers.contract.evaluation import Figure
from optimizers.contract.goal import FigureName
from optimizers.contract.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """How far a recipe is taken before somebody decides whether it goes on.

    Attributes:
        index: Among the levels of a recipe, counted from 1.
        training_share: Share in (0, 1] of the epochs that the recipe's steps train for; 0.0: no
            step trains, and only what does not depend on the weights is measured.
    """

    index: int
    training_share: float

    @property
    def is_structure(self) -> bool:
        """Whether only what does not depend on the weights is measured."""
        return self.training_share == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What came of a recipe at one level.

    Attributes:
        figures: What was measured at this level, beside the original.
        seconds: What building and measuring took.
        broken: Why the recipe made nothing that can be used, for people; "" where it did.
        missing: Figures that were wanted at this level and not had, and why.
    """

    figures: tuple[Figure, ...]
    seconds: float
    broken: str = ""
    missing: Mapping[FigureName, str] = field(default_factory=dict)


class CannotTry(HoneError):
    """This machine can try no recipe, or not now; nothing follows for the one that it was to try.

    The text says why.
    """


class Evaluator(Protocol):
    """Tries recipes: by building and measuring, or by replaying what was measured once."""

    def evaluate(self, recipe: Recipe, level: Level) -> Measured:
        """Take a recipe as far as a level and measure what that level can tell.

        A recipe that fails is `Measured.broken`; an exception is a fault of the evaluator and
        ends this process's part in the search.

        Raises:
            CannotTry: See there.
        """
        ...
