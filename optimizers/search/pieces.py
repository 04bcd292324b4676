"""Which piece of work is next: one trial at one level, in the hands of one process.

First comes what a dead process left, then a trial that may climb, then a new recipe.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from optimizers.contract.goal import Goal
from optimizers.contract.study import Trial, TrialState
from optimizers.search.dominance import ranking
from optimizers.search.evaluator import Level
from optimizers.search.ladder import Ladder, Standing
from optimizers.search.leases import Lease, Leases
from optimizers.search.ledger import Budget, Entry, Ledger
from optimizers.search.objectives import objectives
from optimizers.search.sampling import Asked, Sampling

_GIVEN_UP: Final = (TrialState.FAILED, TrialState.ABANDONED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What several processes share.

    Attributes:
        sampling: Who proposes, and knows what was told.
        ledger: Every trial with its figures.
        leases: Who works on which trial.
        budget: Which of the study's budgets is spent.
    """

    sampling: Sampling
    ledger: Ledger
    leases: Leases
    budget: Budget

    def entries(self) -> dict[int, Entry]:
        """Every trial by its number."""
        return {entry.trial.number: entry for entry in self.ledger.all()}

    def keep(self, entry: Entry, lease: Lease) -> None:
        """Enter what is new of a trial.

        Raises:
            LeaseLost: The trial is not ours any more; nothing was entered.
        """
        with self.leases.held(lease) as connection:
            self.ledger.write(entry, connection)

    def finish(self, goal: Goal, entry: Entry, lease: Lease) -> None:
        """Enter a trial that has ended, and tell the sampler of it.

        In this order: a crash in between leaves a record that `Pieces` tells the sampler of.

        Raises:
            LeaseLost: The trial is not ours any more; nothing was entered or told.
        """
        self.keep(entry, lease)
        self.tell(goal, entry.trial)

    def tell(self, goal: Goal, trial: Trial) -> None:
        """Tell the sampler what came of a trial."""
        if trial.state is TrialState.FAILED:
            self.sampling.fail(trial.number, trial.reason)
        else:
            self.sampling.tell(trial.number, objectives(goal, trial.figures), trial.violation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A trial in our hands, and the level that it is to be taken to."""

    lease: Lease
    entry: Entry
    level: Level


class Pieces:
    """Finds the next piece of work for one process."""

    def __init__(self, goal: Goal, memory: Memory, ladder: Ladder, *, trials: int) -> None:
        """Find pieces of a search.

        Args:
            goal: With the task's floors.
            memory: What the search's processes share.
            ladder: Who climbs.
            trials: Most recipes that the budget may ask for.
        """
        self._goal = goal
        self._memory = memory
        self._ladder = ladder
        self._trials = trials
        self.is_used_up = False
        """Whether the sampler has no further recipe."""

    def next(self, *, is_late: bool) -> Piece | None:
        """A piece that is ours from now on; None where there is none at the moment.

        Args:
            is_late: Whether to finish what waits, and to begin nothing new.
        """
        entries = self._memory.entries()
        running = {asked.number: asked for asked in self._memory.sampling.running()}
        waiting = {n: entries[n] for n in running if n in entries and entries[n].waits}
        for number, asked in running.items():
            if number not in waiting:
                piece = self._taken_over(asked)
                if piece is not None:
                    return piece
        for number in self._ladder.climbers(_standings(entries)):
            if number in waiting:
                piece = self._climbing(waiting[number])
                if piece is not None:
                    return piece
        if not (is_late and waiting):
            piece = self._new()
            if piece is not None:
                return piece
        return self._best_of(waiting)

    def in_turn(self) -> frozenset[int]:
        """Numbers of the trials that would climb next."""
        return frozenset(self._ladder.climbers(_standings(self._memory.entries())))

    def others_work(self) -> bool:
        """Whether a trial runs that does not merely wait; if its holder died, its lease ends."""
        entries = self._memory.entries()
        return any(
            asked.number not in entries or not entries[asked.number].waits
            for asked in self._memory.sampling.running()
        )

    def _new(self) -> Piece | None:
        """A recipe that was not tried before."""
        while not self.is_used_up and self._memory.ledger.take_one(
            self._memory.budget, self._trials
        ):
            asked = self._memory.sampling.ask()
            if asked is None:
                self.is_used_up = True
                return None
            piece = self._taken_over(asked)
            if piece is not None:
                return piece
        return None

    def _best_of(self, waiting: Mapping[int, Entry]) -> Piece | None:
        """Where nothing new comes: the best of those that wait."""
        entries = list(waiting.values())
        last = [entry.standings[-1] for entry in entries]
        for index in ranking([one.values for one in last], [one.violation for one in last]):
            piece = self._climbing(entries[index])
            if piece is not None:
                return piece
        return None

    def _taken_over(self, asked: Asked) -> Piece | None:
        """A trial that is new, or that whoever had it did not bring to an end."""
        memory = self._memory
        lease = memory.leases.claim(asked.number)
        if lease is None:
            return None
        entry = memory.ledger.read(asked.number)
        is_running = memory.sampling.resume(asked.number)
        if not is_running or (entry is not None and entry.waits):  # somebody was quicker
            memory.leases.release(lease, attempts=0)
            return None
        if entry is None:
            entry = Entry(trial=self._begun(asked))
        if entry.trial.state is not TrialState.RUNNING:
            memory.tell(self._goal, entry.trial)
        else:
            return Piece(lease=lease, entry=entry, level=self._level(entry.trial))
        memory.leases.release(lease, attempts=0)
        return None

    def _climbing(self, entry: Entry) -> Piece | None:
        """A trial that waits, one level further; None where somebody else has it."""
        lease = self._memory.leases.claim(entry.trial.number)
        if lease is None:
            return None
        if self._memory.ledger.read(entry.trial.number) != entry:
            self._memory.leases.release(lease, attempts=0)
            return None
        trial = replace(
            entry.trial, state=TrialState.RUNNING, reason="", level=entry.trial.level + 1
        )
        return Piece(lease=lease, entry=replace(entry, trial=trial), level=self._level(trial))

    def _begun(self, asked: Asked) -> Trial:
        return Trial(
            number=asked.number,
            recipe=asked.recipe,
            origin=asked.origin,
            state=TrialState.RUNNING,
            level=1,
            levels=len(self._ladder.levels(asked.number, asked.recipe)),
            started_unix_s=time.time(),
        )

    def _level(self, trial: Trial) -> Level:
        return self._ladder.levels(trial.number, trial.recipe)[trial.level - 1]


def _standings(entries: Mapping[int, Entry]) -> list[Standing]:
    """What trials count with in their rungs; nothing where they failed or were given up."""
    return [
        standing
        for entry in entries.values()
        if entry.trial.state not in _GIVEN_UP
        for standing in entry.standings
    ]
