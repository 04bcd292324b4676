"""Who climbs: every recipe is tried cheaply, few get all of their training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optimizers.contract.recipe import Recipe
from optimizers.search.evaluator import Level


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What a trial reached at one level.

    Attributes:
        number: Of the trial.
        level: Which level, as `Ladder.levels` gave it.
        values: Of the objectives as measured there, each to be minimised.
        violation: By how much it misses what is required; 0: nothing.
    """

    number: int
    level: Level
    values: tuple[float, ...]
    violation: float = 0.0


class Ladder:
    """Asynchronous successive halving (Li et al., 2020), in brackets of Hyperband on request.

    Keeps nothing: who climbs is a pure function of the standings that were recorded.

    Args:
        hyperband: Whether trials are spread over brackets (Li et al., 2018); otherwise all begin
            at the smallest share.
    """

    def __init__(self, *, hyperband: bool = False) -> None:
        raise NotImplementedError

    def levels(self, number: int, recipe: Recipe) -> tuple[Level, ...]:
        """How a trial goes: structure first, then all at once, or in shares where it trains."""
        raise NotImplementedError

    def climbers(self, standings: Sequence[Standing]) -> tuple[int, ...]:
        """Numbers of the trials that may go on to their next level, highest level first.

        A trial that has no further level is none of them, nor one that has gone on already. One
        that is not among them waits; it may be among them when others were measured.

        Args:
            standings: All of the study, given-up and failed trials left out.
        """
        raise NotImplementedError
