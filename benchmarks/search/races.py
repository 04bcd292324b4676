"""Every way of searching, replayed over one sweep with many seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.search.replay import (
    CONTESTANTS,
    Contestant,
    everything,
    looks_ahead,
    quarter,
    replay,
)
from benchmarks.search.score import REACHED, Yardstick
from benchmarks.search.sweep import Sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """What one contestant came to; a number for each seed.

    Attributes:
        contestant: Who.
        shares: What it found with a share of the sweep's trials and time, as a share of its best.
        trials: How many recipes it began until it had found enough, as a share of the sweep's;
            infinite where it never did.
        seconds: What it took until then, likewise.
    """

    contestant: Contestant
    shares: Sequence[float]
    trials: Sequence[float]
    seconds: Sequence[float]

    @property
    def never(self) -> int:
        """With how many seeds it found too little, even when it had all trials and any time."""
        return sum(map(math.isinf, self.trials))


@dataclass(frozen=True, slots=True, kw_only=True)
class Races:
    """All contestants over one sweep, with one goal.

    Attributes:
        of: One for each contestant.
        unfair: Those that went by what they were not told.
    """

    of: Sequence[Race]
    unfair: Sequence[Contestant]

    def race(self, contestant: Contestant) -> Race:
        """One contestant's."""
        return next(one for one in self.of if one.contestant == contestant)


def races(
    sweep: Sweep,
    stick: Yardstick,
    *,
    seeds: int,
    contestants: Sequence[Contestant] = CONTESTANTS,
) -> Races:
    """Replay everybody.

    Args:
        sweep: Complete.
        stick: Of this sweep; its goal is searched for.
        seeds: How many; a contestant without chance needs one.
        contestants: Who takes part.
    """
    found, unfair = [], []
    for one in contestants:
        runs = [_run(sweep, stick, one, seed) for seed in range(seeds if one.by_chance else 1)]
        shares, trials, seconds = zip(*runs, strict=True)
        found.append(Race(contestant=one, shares=shares, trials=trials, seconds=seconds))
        if looks_ahead(sweep, stick.goal, one, seed=0):
            unfair.append(one)
    return Races(of=found, unfair=unfair)


def _run(
    sweep: Sweep, stick: Yardstick, contestant: Contestant, seed: int
) -> tuple[float, float, float]:
    short = replay(sweep, stick.goal, contestant, seed=seed, limits=quarter(sweep))
    share = stick.share(short.moments[-1].trials_ended) if short.moments else 0.0
    long = replay(
        sweep,
        stick.goal,
        contestant,
        seed=seed,
        limits=everything(sweep),
        enough=lambda trials: stick.share(trials) >= REACHED,
    )
    if not long.moments or stick.share(long.moments[-1].trials_ended) < REACHED:
        return share, math.inf, math.inf
    last = long.moments[-1]
    return share, last.trials / len(sweep.recipes), last.seconds / sweep.seconds
