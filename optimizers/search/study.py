"""The loop of a search: ask, climb the ladder cheap first, abandon by bounds, tell.

Work comes in pieces (`pieces`). What came of one is in the database before the next is taken, so
that nothing but running pieces is ever lost, and several processes share a study without talking
to each other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from optimizers.contract.evaluation import Figure
from optimizers.contract.goal import Goal
from optimizers.contract.study import MOST_ATTEMPTS, Trial, TrialState
from optimizers.search.evaluator import CannotTry, Evaluator, Measured
from optimizers.search.ladder import Ladder, Standing
from optimizers.search.leases import Lease, LeaseLost
from optimizers.search.ledger import Entry
from optimizers.search.objectives import meets, objectives, violation, why_given_up
from optimizers.search.outcome import outcome
from optimizers.search.pieces import Memory, Piece, Pieces
from optimizers.search.working_time import TimeIsUp

CUT: Final = "cut when the search ended; a search that is resumed goes on with it"
"""The reason of a trial that runs when its search has ended."""
WAITED: Final = "the search ended before its turn came; one that is resumed goes on with it"
"""The reason of a trial that was among the best of its rung then."""

_LOOK_EVERY_S: Final = 0.5
_LATE: Final = 2 / 3
"""Share of the time after which what waits is finished where nothing holds the goal yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a search may spend.

    Attributes:
        trials: Most recipes.
        seconds: Longest time.
    """

    trials: int
    seconds: float


class Study:
    """One process's part in a search."""

    def __init__(
        self,
        goal: Goal,
        limits: Limits,
        memory: Memory,
        ladder: Ladder,
        evaluator: Evaluator,
        *,
        worker: str,
        differs: str = "",
        clock: Callable[[], float] = time.monotonic,
        changed: Callable[[Trial], None] = lambda trial: None,
        pause: Callable[[float], None] = time.sleep,
        leave: Callable[[], str] = lambda: "",
    ) -> None:
        """Take part.

        Args:
            goal: What is wanted, with the task's floors.
            limits: What may be spent, by all processes together.
            memory: What they share.
            ladder: Who climbs.
            evaluator: Who tries recipes.
            worker: Name of this process, for people.
            differs: How this machine differs from the one that serves; "" where it does not.
            clock: Seconds that count; simulated where trials are replayed.
            changed: Called with a trial whenever something of it is new.
            pause: Waits for some seconds where others have all the work there is.
            leave: Why this process is to take part no longer, however the search goes on; "": it
                stays.
        """
        self._goal = goal
        self._limits = limits
        self._memory = memory
        self._pieces = Pieces(goal, memory, ladder, trials=limits.trials)
        self._evaluator = evaluator
        self._worker = worker
        self._differs = differs
        self._clock = clock
        self._changed = changed
        self._pause = pause
        self._leave = leave
        self._began = clock()

    @property
    def seconds(self) -> float:
        """Spent so far, by this budget."""
        return self._memory.budget.seconds + self._clock() - self._began

    @property
    def seconds_left(self) -> float:
        """Until the time ends, at least 0."""
        return max(0.0, self._limits.seconds - self.seconds)

    def run(self) -> str:
        """Work until there is no more to do; returns why, for people.

        Raises:
            CannotTry: This machine can try nothing.
        """
        while True:
            ended = self._why_ended()
            if ended:
                return ended
            piece = self._pieces.next(is_late=self.seconds > _LATE * self._limits.seconds)
            if piece is not None:
                self._work_on(piece)
            elif self._pieces.others_work():
                self._memory.leases.free_the_dead()
                self._pause(_LOOK_EVERY_S)
            elif self._pieces.is_used_up:
                return "every recipe of the space was tried"
            else:
                return f"its {self._limits.trials} trials were used up"

    def settle(self) -> None:
        """At the end: what waits to climb has lost, what else runs was cut.

        To the sampler both still run, so that a search that is resumed goes on with them. A trial
        that somebody still has in his hands is left to him.
        """
        running = {asked.number for asked in self._memory.sampling.running()}
        in_turn = self._pieces.in_turn()
        for number in sorted(running & self._memory.entries().keys()):
            lease = self._memory.leases.claim(number)
            if lease is not None:
                with suppress(LeaseLost):
                    self._put_down(lease, is_next=number in in_turn)
                self._memory.leases.release(lease, attempts=lease.attempt - 1)

    def _put_down(self, lease: Lease, *, is_next: bool) -> None:
        entry = self._memory.ledger.read(lease.trial)
        if entry is None:
            return
        if entry.waits:
            reason = WAITED if is_next else ""
            ended = replace(entry.trial, state=TrialState.HALVED, reason=reason)
        elif entry.trial.state is TrialState.RUNNING:
            ended = replace(entry.trial, reason=CUT)
        else:  # whoever recorded its end was gone before the sampler knew
            self._memory.tell(self._goal, entry.trial)
            return
        if ended != entry.trial:
            self._keep(replace(entry, trial=ended), lease)

    def _why_ended(self) -> str:
        self._memory.ledger.spend(self._memory.budget, self.seconds)
        leaving = self._leave()
        if leaving:
            return leaving
        for number, entry in self._memory.entries().items():
            trial = entry.trial
            if trial.is_feasible and meets(self._goal.stop_when, trial.figures):
                wanted = ", ".join(f"'{one.text}'" for one in self._goal.stop_when)
                return f"trial {number} is good enough: {wanted}"
        if not self.seconds_left:
            return f"its {self._limits.seconds / 60:g} minutes were used up"
        return ""

    def _work_on(self, piece: Piece) -> None:
        try:
            attempts = self._took_further(piece)
        except LeaseLost:  # who has it now takes it to the same level
            return
        except CannotTry:
            self._memory.leases.release(piece.lease, attempts=piece.lease.attempt - 1)
            raise
        self._memory.leases.release(piece.lease, attempts=attempts)

    def _took_further(self, piece: Piece) -> int:
        """Do a piece of work; returns how many attempts at it count."""
        ended = self._ended_before(piece)
        if ended is not None:
            self._finish(ended, piece.lease)
            return 0
        trial = replace(piece.entry.trial, worker=self._worker, reason="")
        if self._differs:
            trial = replace(trial, differs=self._differs)
        self._keep(replace(piece.entry, trial=trial), piece.lease)
        began = self._clock()
        with self._memory.leases.kept(piece.lease):
            measured = self._measured(piece)
            trial = replace(trial, seconds=trial.seconds + self._clock() - began)
            if measured is None:
                cut = replace(piece.entry, trial=replace(trial, reason=CUT))
                self._keep(cut, piece.lease)
                return piece.lease.attempt - 1
            self._judge(replace(piece, entry=replace(piece.entry, trial=trial)), measured)
        return 0

    def _ended_before(self, piece: Piece) -> Entry | None:
        """A trial that takes no more work to end; None where it does.

        Processes died at it again and again, or others have become better since it was measured.
        """
        entry = piece.entry
        if piece.lease.attempt > MOST_ATTEMPTS:
            reason = f"given up: {MOST_ATTEMPTS} processes ended while they worked on it"
            failed = replace(entry.trial, state=TrialState.FAILED, reason=reason)
            return replace(entry, trial=failed)
        reason = self._why_it_cannot_win(entry.trial) if entry.standings else ""
        if not reason:
            return None
        level = entry.standings[-1].level.index
        trial = replace(entry.trial, state=TrialState.ABANDONED, level=level, reason=reason)
        return replace(entry, trial=trial)

    def _why_it_cannot_win(self, trial: Trial) -> str:
        trials = [entry.trial for entry in self._memory.entries().values()]
        return why_given_up(self._goal, trial, outcome(self._goal, trials).front)

    def _measured(self, piece: Piece) -> Measured | None:
        """What came of a piece; None where time was up before."""
        try:
            measured = self._evaluator.evaluate(piece.entry.trial.recipe, piece.level)
        except TimeIsUp:
            return None
        return measured if self.seconds_left else None

    def _judge(self, piece: Piece, measured: Measured) -> None:
        """What follows for a trial from what was measured at a level."""
        trial = piece.entry.trial
        figures = _joined(trial.figures, measured.figures)
        is_last = trial.level == trial.levels
        missed = violation(self._goal, figures, whole=is_last)
        missing = {**trial.missing, **measured.missing}
        trial = replace(trial, figures=figures, missing=missing, violation=missed)
        if measured.broken:
            state, reason = TrialState.FAILED, measured.broken
        elif is_last:
            state, reason = TrialState.COMPLETE, ""
        else:
            reason = self._why_it_cannot_win(trial)
            state = TrialState.ABANDONED if reason else TrialState.RUNNING
        trial = replace(trial, state=state, reason=reason)
        if state is not TrialState.RUNNING:
            self._finish(replace(piece.entry, trial=trial), piece.lease)
            return
        standing = Standing(
            number=trial.number,
            level=piece.level,
            values=objectives(self._goal, figures),
            violation=missed,
        )
        entry = Entry(trial=trial, standings=(*piece.entry.standings, standing))
        self._keep(entry, piece.lease)
        if not piece.level.is_structure:  # before that nothing is known of the answers
            self._memory.sampling.tell_so_far(trial.number, standing.values, missed)

    def _keep(self, entry: Entry, lease: Lease) -> None:
        self._memory.keep(entry, lease)
        self._changed(entry.trial)

    def _finish(self, entry: Entry, lease: Lease) -> None:
        self._memory.finish(self._goal, entry, lease)
        self._memory.ledger.spend(self._memory.budget, self.seconds)
        self._changed(entry.trial)


def _joined(former: Sequence[Figure], newer: Sequence[Figure]) -> tuple[Figure, ...]:
    """All figures; newer ones take the place of all that was known of the same quantity.

    Its condition may change: of several outputs the one that came off worst is told.
    """
    again = {(one.name, one.under) for one in newer}
    return (*(one for one in former if (one.name, one.under) not in again), *newer)
