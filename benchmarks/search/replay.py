"""Searches over a recorded sweep: the real loop, samplers and ladder, and a clock that is set."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import Final

from benchmarks.search.sweep import Sweep
from optimizers.contract.goal import Goal
from optimizers.contract.recipe import Recipe
from optimizers.contract.search import Sampler
from optimizers.contract.study import Trial
from optimizers.planner import propose
from optimizers.search.database import open_database
from optimizers.search.evaluator import Level, Measured
from optimizers.search.ladder import Ladder
from optimizers.search.leases import Leases
from optimizers.search.ledger import Ledger
from optimizers.search.pieces import Memory
from optimizers.search.records import recipe_key
from optimizers.search.sampling import Sampling
from optimizers.search.study import Limits, Study

_STUDY: Final = "replay"

Asked = tuple[tuple[Recipe, Level], ...]
"""Pieces of work in the order in which they were asked for."""


def _planned(sweep: Sweep, goal: Goal) -> tuple[Recipe, ...]:
    return tuple(one.recipe for one in propose(sweep.evidence, goal, sweep.search))


def _unplanned(sweep: Sweep, goal: Goal) -> tuple[Recipe, ...]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """A way of searching.

    Attributes:
        name: For people.
        sampler: Who proposes.
        first: What is tried before the sampler's own proposals, for a goal; of the sweep it may
            go by what is known before anything was tried.
        by_chance: Whether seeds matter.
    """

    name: str
    sampler: Sampler
    first: Callable[[Sweep, Goal], Sequence[Recipe]] = _unplanned
    by_chance: bool = True


DEFAULT: Final = Contestant(name="planner, then tpe", sampler=Sampler.TPE, first=_planned)
"""What a search does when nothing else is said."""
ALONE: Final = Contestant(name="tpe alone", sampler=Sampler.TPE)
"""The ablation: no planner."""
RANDOM: Final = Contestant(name="random", sampler=Sampler.RANDOM)
GRID: Final = Contestant(name="grid", sampler=Sampler.GRID, by_chance=False)
GENETIC: Final = Contestant(name="nsga2", sampler=Sampler.NSGA2)
CONTESTANTS: Final = (DEFAULT, ALONE, RANDOM, GENETIC, GRID)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """When something was known for the first time.

    Attributes:
        trials: How many recipes had been begun.
        seconds: On the clock of the replay.
        trials_ended: Those that had been measured to their end, this one included.
    """

    trials: int
    seconds: float
    trials_ended: tuple[Trial, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What came of one search.

    Attributes:
        moments: One whenever a trial had been measured to its end.
        asked: What it was told of, in order.
        ended: Why it ended, for people; "" where it was ended from outside.
    """

    moments: tuple[Moment, ...]
    asked: Asked
    ended: str


class _Enough(Exception):
    """Whoever watches has seen what it wanted to see."""


@dataclass
class _Recorded:
    """Answers with what was measured in the sweep, and lets the clock go on by what it took."""

    sweep: Sweep
    now_s: float = 0.0
    asked: list[tuple[Recipe, Level]] = field(default_factory=list)
    there: set[str] = field(default_factory=set)

    def clock(self) -> float:
        return self.now_s

    def evaluate(self, recipe: Recipe, level: Level) -> Measured:
        self.asked.append((recipe, level))
        piece = self.sweep.found[recipe_key(recipe), level]
        seconds = self.sweep.charge(recipe, level, self.there)
        self.now_s += seconds
        return Measured(figures=piece.figures, seconds=seconds, broken=piece.broken)


def replay(
    sweep: Sweep,
    goal: Goal,
    contestant: Contestant,
    *,
    seed: int,
    limits: Limits,
    enough: Callable[[Sequence[Trial]], bool] = lambda ended: False,
) -> Replayed:
    """Search once.

    Args:
        sweep: What recipes came to.
        goal: With floors; its aims are some of the sweep's.
        contestant: How.
        seed: Of everything random.
        limits: What may be spent.
        enough: Told of all trials that were measured to their end, says whether to stop.
    """
    recorded = _Recorded(sweep)
    moments: list[Moment] = []
    ended = ""
    with ExitStack() as stack:
        engine = open_database("sqlite://")
        stack.callback(engine.dispose)
        ledger = Ledger(engine, _STUDY, sweep.original_sha256)
        sampling = Sampling(
            sweep.space,
            study=_STUDY,
            sampler=contestant.sampler,
            objectives=len(goal.optimize),
            seed=seed,
            trials=limits.trials,
        )
        stack.callback(sampling.close)
        for recipe in contestant.first(sweep, goal):
            sampling.enqueue(recipe, contestant.name)
        memory = Memory(
            sampling=sampling,
            ledger=ledger,
            leases=Leases(engine, _STUDY, owner=_STUDY),
            budget=ledger.budget(_STUDY, another=False),
        )

        def changed(trial: Trial) -> None:
            if not trial.is_feasible:
                return
            entries = memory.entries()
            feasible = tuple(one.trial for one in entries.values() if one.trial.is_feasible)
            moments.append(
                Moment(trials=len(entries), seconds=recorded.now_s, trials_ended=feasible)
            )
            if enough(feasible):
                raise _Enough

        study = Study(
            goal,
            limits,
            memory,
            Ladder(),
            recorded,
            worker=_STUDY,
            clock=recorded.clock,
            changed=changed,
            pause=_alone,
        )
        with suppress(_Enough):
            ended = study.run()
    return Replayed(moments=tuple(moments), asked=tuple(recorded.asked), ended=ended)


def quarter(sweep: Sweep) -> Limits:
    """What a search has to do with."""
    return Limits(trials=sweep.search.trials, seconds=60 * sweep.search.minutes)


def everything(sweep: Sweep) -> Limits:
    """Every recipe, and any time."""
    return Limits(trials=len(sweep.recipes), seconds=math.inf)


def looks_ahead(sweep: Sweep, goal: Goal, contestant: Contestant, *, seed: int) -> bool:
    """Whether a search goes by anything that it was not told of.

    It is replayed over sweeps in which whatever it was not told of has come to nothing: all of it
    before it asks for the first recipe, and what it never asked for. One that knows only what it
    was told asks for the same again.

    Args:
        sweep: What recipes came to.
        goal: With floors.
        contestant: Who is suspected.
        seed: Of everything random.
    """
    limits = Limits(trials=sweep.search.trials, seconds=math.inf)
    first = replay(sweep, goal, contestant, seed=seed, limits=limits)
    blinded = replay(sweep.told_only(first.asked), goal, contestant, seed=seed, limits=limits)
    blind = replay(
        sweep.told_only(()), goal, contestant, seed=seed, limits=replace(limits, trials=1)
    )
    return blinded.asked != first.asked or blind.asked[:1] != first.asked[:1]


def _alone(seconds: float) -> None:
    raise AssertionError("nobody else works on a replay, so that there is nothing to wait for")
