"""Studies whose trials are replayed: figures come from functions, time from a clock that is set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from optimizers.contract.evaluation import Estimate, Figure
from optimizers.contract.goal import FigureName, Goal
from optimizers.contract.recipe import Recipe
from optimizers.contract.search import Sampler
from optimizers.contract.study import Trial
from optimizers.search.database import open_database
from optimizers.search.evaluator import Evaluator, Level, Measured
from optimizers.search.ladder import Ladder
from optimizers.search.leases import Leases
from optimizers.search.ledger import Ledger
from optimizers.search.pieces import Memory
from optimizers.search.space import Space
from optimizers.search.study import Limits, Study
from tests.support.studies import sampling

SECONDS = 60.0
"""What a replayed piece of work takes."""


def exact(name: FigureName, value: float, original: float) -> Figure:
    """A figure without uncertainty."""

    def sure(number: float) -> Estimate:
        return Estimate(value=number, lower=number, upper=number)

    return Figure(
        name=name,
        unit="",
        samples=1000,
        value=sure(value),
        original=sure(original),
        difference=sure(value - original),
        ratio=sure(value / original),
    )


def agreement(share: float) -> Figure:
    """How far answers are the same, for sure."""
    sure = Estimate(value=share, lower=share, upper=share)
    return Figure(name=FigureName.AGREEMENT, unit="", samples=1000, value=sure)


class Clock:
    """Seconds that pass when somebody says so."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Replay:
    """Answers with recorded figures, and lets the clock pass.

    Attributes:
        pieces: What was asked for, in order.
    """

    def __init__(
        self, clock: Clock, latency: Callable[[Recipe], float], true: Callable[[Recipe], float]
    ) -> None:
        self.pieces: list[tuple[Recipe, int]] = []
        self._clock = clock
        self._latency = latency
        self._true = true

    def evaluate(self, recipe: Recipe, level: Level) -> Measured:
        """Structure tells the latency, later levels how true the answers are."""
        self.pieces.append((recipe, level.index))
        self._clock.now_s += SECONDS
        if level.is_structure:
            figures = (exact(FigureName.LATENCY_P50, self._latency(recipe), 1.0),)
        else:
            figures = (agreement(self._true(recipe)),)
        return Measured(figures=figures, seconds=SECONDS)


def study_of(
    directory: Path,
    space: Space,
    goal: Goal,
    evaluator: Evaluator,
    *,
    limits: Limits,
    clock: Callable[[], float],
    sampler: Sampler = Sampler.GRID,
    owner: str = "one",
    lasts_s: float = 30.0,
    submission: str = "first",
    another: bool = False,
) -> tuple[Study, Memory]:
    """A study kept below a directory, as one process takes part in it."""
    url = f"sqlite:///{directory}/study.sqlite"
    engine = open_database(url)
    ledger = Ledger(engine, "one", "original")
    memory = Memory(
        sampling=sampling(space, sampler, objectives=len(goal.optimize), storage=url),
        ledger=ledger,
        leases=Leases(engine, "one", owner=owner, lasts_s=lasts_s),
        budget=ledger.budget(submission, another=another),
    )
    study = Study(
        goal, limits, memory, Ladder(), evaluator, worker=owner, clock=clock, pause=_never
    )
    return study, memory


def trials(memory: Memory) -> list[Trial]:
    """All of a study, by number."""
    return [entry.trial for entry in memory.ledger.all()]


def close(memory: Memory) -> None:
    """Let go of the database."""
    memory.sampling.close()
    memory.ledger.close()


def _never(seconds: float) -> None:
    raise AssertionError("nobody else works on this study, so that there is nothing to wait for")
