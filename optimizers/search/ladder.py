"""Who climbs: every recipe is tried cheaply, few get all of their training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final

from optimizers.contract.declaration import Effect
from optimizers.contract.recipe import Recipe
from optimizers.search.dominance import ranking
from optimizers.search.evaluator import Level

REDUCTION: Final = 3
"""One of so many climbs, to so many times the training."""
_SHARES: Final = (1 / 9, 1 / 3, 1.0)
"""Of a recipe's training, in the order in which it gets them."""
_STRUCTURE: Final = Level(index=1, training_share=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bracket:
    """One bracket of Hyperband.

    Attributes:
        halvings: How often it halves, s.
        rungs: For each rung, how many trials and what each of them gets.
    """

    halvings: int
    rungs: tuple[tuple[int, int], ...]


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


def brackets(most: int, reduction: int = REDUCTION) -> tuple[Bracket, ...]:
    """The brackets of Hyperband (Li et al., JMLR 18, 2018, algorithm 1), most halvings first.

    Bracket s of s_max = floor(log_reduction(most)) begins with n = ceil((s_max + 1) / (s + 1)
    reduction^s) trials that get r = most / reduction^s each; rung i has floor(n / reduction^i) of
    them, which get r reduction^i.

    Args:
        most: What a trial can get at most, in units of the least; R in the paper.
        reduction: See there; eta in the paper.
    """
    deepest = 0
    while reduction ** (deepest + 1) <= most:
        deepest += 1
    found = []
    for halvings in range(deepest, -1, -1):
        trials = ceil((deepest + 1) * reduction**halvings / (halvings + 1))
        rungs = tuple(
            (trials // reduction**rung, most // reduction ** (halvings - rung))
            for rung in range(halvings + 1)
        )
        found.append(Bracket(halvings=halvings, rungs=rungs))
    return tuple(found)


class Ladder:
    """Asynchronous successive halving (Li et al., 2020), in brackets of Hyperband on request.

    Trials that train get 1/9 of their epochs, then 1/3, then all. Whenever somebody is free, the
    best third of those measured at a level may go on (Li et al., A System for Massively Parallel
    Hyperparameter Tuning, 2020, algorithm 2), and while there are fewer than three of them the
    best one may, so that something is trained to the end before many are tried. Best is what
    fewest dominate, then what is least crowded, then who came first. By how much a trial misses
    what is required counts as one more aim: training wins that back, so that a deep cut that
    misses something after a ninth of it is neither better nor worse than what is safe and slow.
    Nobody waits at the level of structure, where nothing is known of the answers yet: only bounds
    end a trial there.

    It keeps nothing: who climbs is a function of the standings that were recorded, so that it
    goes on after a crash, and says the same to all workers.

    Args:
        hyperband: Whether trials that train are spread by their numbers over three brackets (Li
            et al., 2018), which begin at 1/9, 1/3 and all of the training; otherwise all begin
            at 1/9. Halving takes place inside a bracket.
    """

    def __init__(self, *, hyperband: bool = False) -> None:
        self._hyperband = hyperband

    def levels(self, number: int, recipe: Recipe) -> tuple[Level, ...]:
        """How a trial goes: structure first, then all at once, or in shares where it trains."""
        shares: tuple[float, ...] = _SHARES[-1:]
        if trains(recipe):
            shares = _SHARES[self._bracket(number) :]
        rest = (Level(index=index, training_share=share) for index, share in enumerate(shares, 2))
        return (_STRUCTURE, *rest)

    def climbers(self, standings: Sequence[Standing]) -> tuple[int, ...]:
        """Numbers of the trials that may go on to their next level, highest level first.

        A trial that has no further level is none of them, nor one that has gone on already. One
        that is not among them waits; it may be among them when others were measured.

        Args:
            standings: All of the study, given-up and failed trials left out.
        """
        reached: dict[int, float] = defaultdict(float)
        rungs: dict[tuple[float, int], dict[int, Standing]] = defaultdict(dict)
        for one in standings:
            share = one.level.training_share
            reached[one.number] = max(reached[one.number], share)
            rungs[share, self._bracket(one.number)][one.number] = one
        found: list[int] = []
        for (share, _), rung in sorted(rungs.items(), key=lambda item: (-item[0][0], item[0][1])):
            if share < 1:
                found += [number for number in _best(share, rung) if reached[number] == share]
        return tuple(found)

    def _bracket(self, number: int) -> int:
        """Index of the share that a trial begins with, spread as Hyperband's brackets are."""
        if not self._hyperband:
            return 0
        sizes = [bracket.rungs[0][0] for bracket in brackets(REDUCTION ** (len(_SHARES) - 1))]
        turn = number % sum(sizes)
        # Evenly over a turn, not one bracket after the other: most searches are shorter.
        ends = sorted(
            ((place + 1) / size, bracket)
            for bracket, size in enumerate(sizes)
            for place in range(size)
        )
        return ends[turn][1]


def by_promise(standings: Sequence[Standing]) -> tuple[int, ...]:
    """All indices, best first, of trials whose training is not over; see `Ladder`."""
    return ranking([(*one.values, one.violation) for one in standings])


def trains(recipe: Recipe) -> bool:
    """Whether a step of a recipe trains the model."""
    return any(
        step.declares.effect is Effect.RETRAINS or getattr(step, "training", None) is not None
        for step in recipe.steps
    )


def _best(share: float, rung: dict[int, Standing]) -> list[int]:
    """Those of a rung that may climb, best first."""
    members = [rung[number] for number in sorted(rung)]
    if share == 0:
        return [one.number for one in members]
    order = by_promise(members)
    climb = max(1, len(members) // REDUCTION)
    return [members[index].number for index in order[:climb]]
