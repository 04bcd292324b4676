"""What a study has learned, kept in its database: every trial with its figures, and what was spent.

Optuna keeps what a sampler needs. Here is the rest: figures with their bounds, reasons, how far a
trial got, which model a study is about, and how much of each budget is used up.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import Final

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import ColumnElement, Connection, Engine, Insert, insert, select, update
from sqlalchemy.exc import IntegrityError

from optimizers.contract.errors import HoneError, InvalidData
from optimizers.contract.study import Trial, TrialState
from optimizers.search.database import BUDGETS, STUDIES, TRIALS
from optimizers.search.evaluator import Level
from optimizers.search.ladder import Standing

_TRIAL: Final = TypeAdapter(Trial)
_WAITING: Final = (TrialState.RUNNING, TrialState.HALVED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One trial as it is known.

    Attributes:
        trial: Its newest record.
        standings: What it reached at each level, lowest first.
    """

    trial: Trial
    standings: tuple[Standing, ...] = ()

    @property
    def waits(self) -> bool:
        """Whether it was measured at its level and would have to climb to go on.

        One that had to wait until its search ended does so again where the search is resumed.
        """
        if self.trial.state not in _WAITING or not self.standings:
            return False
        return self.standings[-1].level.index == self.trial.level


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What one search may spend on a study, as far as it has been used.

    Attributes:
        index: Of the study's budgets, from 0.
        seconds: Spent already.
    """

    index: int
    seconds: float


class Ledger:
    """The trials and budgets of one study."""

    def __init__(self, engine: Engine, study: str, original_sha256: str) -> None:
        """Open a study; one that is new is entered as being about an original."""
        self._engine = engine
        self._study = study
        self._original = original_sha256
        entry = {"study": study, "original": original_sha256}
        self._insert_once(insert(STUDIES).values(entry))

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def write(self, entry: Entry, connection: Connection) -> None:
        """Keep the newest record of a trial.

        Args:
            entry: What is known of it now.
            connection: Of a transaction in which the trial is ours (`Leases.held`).
        """
        content = {
            "record": _TRIAL.dump_json(entry.trial).decode(),
            "standings": json.dumps([_plain(one) for one in entry.standings]),
        }
        number = entry.trial.number
        row = (TRIALS.c.study == self._study) & (TRIALS.c.trial == number)
        if not connection.execute(update(TRIALS).where(row).values(content)).rowcount:
            connection.execute(insert(TRIALS).values(study=self._study, trial=number, **content))

    def read(self, number: int) -> Entry | None:
        """One trial; None where nothing was written of it."""
        row = (TRIALS.c.study == self._study) & (TRIALS.c.trial == number)
        query = select(TRIALS.c.record, TRIALS.c.standings).where(row)
        with self._engine.connect() as connection:
            found = connection.execute(query).first()
        return None if found is None else self._entry(found[0], found[1])

    def all(self) -> tuple[Entry, ...]:
        """Every trial, in the order of their numbers."""
        query = (
            select(TRIALS.c.record, TRIALS.c.standings)
            .where(TRIALS.c.study == self._study)
            .order_by(TRIALS.c.trial)
        )
        with self._engine.connect() as connection:
            return tuple(self._entry(*row) for row in connection.execute(query))

    def of_other_studies(self) -> tuple[Trial, ...]:
        """The trials of every other study of the same original.

        What another Hone wrote may be unreadable to this one, and teaches it nothing.
        """
        query = (
            select(TRIALS.c.record)
            .join(STUDIES, STUDIES.c.study == TRIALS.c.study)
            .where(STUDIES.c.original == self._original, STUDIES.c.study != self._study)
            .order_by(TRIALS.c.study, TRIALS.c.trial)
        )
        with self._engine.connect() as connection:
            records = connection.execute(query).scalars().all()
        found = []
        for record in records:
            with contextlib.suppress(ValidationError, HoneError):
                found.append(_TRIAL.validate_json(record))
        return tuple(found)

    def budget(self, submission: str, *, another: bool) -> Budget:
        """The budget that a search goes by.

        Args:
            submission: Names the search, so that it goes on with its own budget when it is
                started again.
            another: Whether a new search gets a budget of its own; otherwise it goes on with the
                newest one.
        """
        newest = select(BUDGETS).where(BUDGETS.c.study == self._study)
        newest = newest.order_by(BUDGETS.c.budget.desc())
        while True:
            with self._engine.connect() as connection:
                found = connection.execute(newest).first()
            if found is not None and (not another or found.submission == submission):
                return Budget(index=found.budget, seconds=found.seconds)
            index = 0 if found is None else found.budget + 1
            entry = {"study": self._study, "budget": index, "submission": submission}
            self._insert_once(insert(BUDGETS).values(asked=0, seconds=0.0, **entry))

    def take_one(self, budget: Budget, most: int) -> bool:
        """Take one trial out of a budget of `most`; False where none is left."""
        with self._engine.begin() as connection:
            changed = connection.execute(
                update(BUDGETS)
                .where(self._of(budget), BUDGETS.c.asked < most)
                .values(asked=BUDGETS.c.asked + 1)
            )
        return changed.rowcount == 1

    def asked_before(self, budget: Budget) -> int:
        """How many trials a study's former budgets asked for."""
        former = (BUDGETS.c.study == self._study) & (BUDGETS.c.budget < budget.index)
        with self._engine.connect() as connection:
            return sum(connection.execute(select(BUDGETS.c.asked).where(former)).scalars())

    def spend(self, budget: Budget, seconds: float) -> None:
        """Note how much of a budget is used up; of several processes the largest number stays."""
        with self._engine.begin() as connection:
            connection.execute(
                update(BUDGETS)
                .where(self._of(budget), BUDGETS.c.seconds < seconds)
                .values(seconds=seconds)
            )

    def _of(self, budget: Budget) -> ColumnElement[bool]:
        return (BUDGETS.c.study == self._study) & (BUDGETS.c.budget == budget.index)

    def _entry(self, record: str, standings: str) -> Entry:
        try:
            return _entry(record, standings)
        except (ValueError, HoneError) as error:
            raise InvalidData(
                f"a trial of study {self._study} cannot be read; another Hone wrote it. Go on with "
                "that one, or remove the study: hone studies --remove"
            ) from error

    def _insert_once(self, statement: Insert) -> None:
        with contextlib.suppress(IntegrityError), self._engine.begin() as connection:
            connection.execute(statement)


def _entry(record: str, standings: str) -> Entry:
    trial = _TRIAL.validate_json(record)
    return Entry(
        trial=trial,
        standings=tuple(
            Standing(
                number=trial.number,
                level=Level(index=index, training_share=share),
                values=tuple(values),
                violation=violation,
            )
            for index, share, values, violation in json.loads(standings)
        ),
    )


def _plain(one: Standing) -> list[object]:
    """By json and not pydantic, which writes an infinite number as null."""
    return [one.level.index, one.level.training_share, list(one.values), one.violation]
