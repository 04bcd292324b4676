"""Who proposes the next recipe, and who remembers what came of it: Optuna."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from optimizers.contract.recipe import Recipe
from optimizers.contract.search import Sampler
from optimizers.search.space import Space


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A recipe to try.

    Attributes:
        number: Of its trial in the study. Numbers grow; there may be gaps.
        recipe: What to do; never empty.
        origin: Who proposed it and why.
    """

    number: int
    recipe: Recipe
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What came of a recipe in an earlier study of the same original.

    Attributes:
        recipe: What was done.
        values: Of the objectives, each to be minimised.
        violation: By how much it missed what is required; 0: nothing.
    """

    recipe: Recipe
    values: tuple[float, ...]
    violation: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A trial that has ended.

    Attributes:
        number: Of its trial.
        recipe: What was done.
        origin: Who proposed it and why.
        values: Of the objectives, each to be minimised; empty where it failed.
        violation: By how much it missed what is required; 0: nothing.
        reason: Why it failed; "" where it did not.
    """

    number: int
    recipe: Recipe
    origin: str
    values: tuple[float, ...]
    violation: float = 0.0
    reason: str = ""


class Sampling:
    """A study: what was proposed, what runs, what was told; several processes may hold one.

    Args:
        space: What may be proposed.
        study: Name of the study; one that exists is gone on with.
        sampler: Who proposes.
        objectives: How many values a trial has, at least 1; each is minimised.
        seed: Of everything random; the same history and seed propose the same.
        storage: URL of the database, such as `sqlite:////path/study.db`; "": in memory.
    """

    def __init__(
        self,
        space: Space,
        *,
        study: str,
        sampler: Sampler,
        objectives: int,
        seed: int,
        storage: str = "",
    ) -> None:
        raise NotImplementedError

    def ask(self) -> Asked | None:
        """The next recipe; None once every recipe of the space was proposed."""
        raise NotImplementedError

    def tell(self, number: int, values: Sequence[float], violation: float = 0.0) -> None:
        """Record what came of a trial, whether it went to the end or was given up before.

        Samplers prefer what violates nothing, then small values.
        """
        raise NotImplementedError

    def fail(self, number: int, reason: str) -> None:
        """Record that nothing came of a trial; samplers do not learn from it."""
        raise NotImplementedError

    def enqueue(self, recipe: Recipe, origin: str) -> bool:
        """Have a recipe asked before the sampler's own; it need not lie in the space.

        Returns:
            Whether it was taken: False where the study has had it.
        """
        raise NotImplementedError

    def warm(self, trials: Iterable[Known]) -> None:
        """Let the sampler learn from earlier studies, and enqueue the best recipes of them.

        Without effect on a study that was warmed before.
        """
        raise NotImplementedError

    def running(self) -> tuple[Asked, ...]:
        """Trials that were asked and neither told nor failed, by anybody."""
        raise NotImplementedError

    def retry(self, number: int) -> Asked:
        """A running trial once more, for whoever takes it over.

        Raises:
            KeyError: No such trial runs.
        """
        raise NotImplementedError

    def told(self) -> tuple[Told, ...]:
        """Every trial that has ended, in the order of their numbers."""
        raise NotImplementedError
