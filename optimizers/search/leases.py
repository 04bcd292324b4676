"""Who works on which trial: leases that end by themselves where their holder has died.

A lease is a row. Whoever changes it from expired to their own has the trial: one UPDATE with the
condition in its WHERE, which any database carries out for one of several that try. Its holder
renews it while it lives; a trial whose lease has run out is there for anybody. What is found of a
trial is written in a transaction that holds its lease, so that who was stopped for too long, and
lost it, writes nothing. Clocks of machines need not agree: the database's decides.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import ColumnElement, Connection, Engine, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from optimizers.search.database import LEASES, clock_of

_log = logging.getLogger(__name__)

SEARCH: Final = -1
"""In place of a trial: the search itself, in the hands of the process that it is run by."""
LASTS_S: Final = 30.0
"""How long a lease holds that is not renewed."""
LASTS_WITH_PAUSES_S: Final = 120.0
"""The same for processes of a job, which a server may stop for a minute, whoever renews."""
_RENEWED_PER_LEASE: Final = 4
_START_TIME_FIELD: Final = 19
"""In /proc/PID/stat, counted after the name's closing bracket."""
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")


class LeaseLost(Exception):
    """Somebody else has the trial, or had it meanwhile; nothing follows from what was found."""


@dataclass(frozen=True, slots=True)
class Lease:
    """One trial in the hands of this process.

    Attributes:
        trial: Its number.
        attempt: How often it was begun, this time included.
    """

    trial: int
    attempt: int


class Leases:
    """The leases of one study, as one process sees them. Its threads may share it."""

    def __init__(
        self,
        engine: Engine,
        study: str,
        *,
        owner: str,
        lasts_s: float = LASTS_S,
        clock: Callable[[], float | ColumnElement[float]] | None = None,
    ) -> None:
        """Act for `owner`.

        Args:
            engine: Of the study's database.
            study: Its name.
            owner: Names this process and no other, for example `this_process()`.
            lasts_s: How long a lease holds that is not renewed, above 0.
            clock: Seconds that all who share the study agree on; None: the database's.
        """
        self._engine = engine
        self._study = study
        self._owner = owner
        self._lasts_s = lasts_s
        self._clock = clock_of(engine) if clock is None else clock

    def claim(self, trial: int) -> Lease | None:
        """Take a trial that nobody holds; None where somebody does."""
        return self._taken(trial, LEASES.c.expires <= self._clock())

    @contextlib.contextmanager
    def running_the_search(self) -> Iterator[None]:
        """Have others know that somebody runs the search, whoever did before, until the block ends.

        A process that is killed here leaves a lease that runs out.
        """
        lease = self._taken(SEARCH)
        assert lease is not None, "nothing was asked of the row but to be there"
        try:
            with self.kept(lease):
                yield
        finally:
            self.release(lease, attempts=0)

    def nobody_runs_the_search(self, for_s: float) -> bool:
        """Whether its process let go of it, or has not been heard of for so long."""
        row = (LEASES.c.study == self._study) & (LEASES.c.trial == SEARCH)
        with self._engine.connect() as connection:
            query = select(LEASES.c.trial).where(row, LEASES.c.expires + for_s <= self._clock())
            return connection.execute(query).first() is not None

    def renew(self, lease: Lease) -> bool:
        """Hold a trial for longer; False where it is lost."""
        with self._engine.begin() as connection:
            return self._extend(connection, lease)

    @contextlib.contextmanager
    def held(self, lease: Lease) -> Iterator[Connection]:
        """A transaction in which a trial is surely ours: nobody can take it before the end.

        Raises:
            LeaseLost: It is not ours any more.
        """
        with self._engine.begin() as connection:
            if not self._extend(connection, lease):
                raise LeaseLost
            yield connection

    def release(self, lease: Lease, *, attempts: int) -> None:
        """Let go of a trial.

        Args:
            lease: Of the trial.
            attempts: How many of them count from now on: 0 where the work was done.
        """
        with self._engine.begin() as connection:
            connection.execute(
                update(LEASES)
                .where(*self._mine(lease))
                .values(owner="", expires=0.0, attempts=attempts)
            )

    @contextlib.contextmanager
    def kept(self, lease: Lease) -> Iterator[None]:
        """Renew a lease from a thread until the block ends, or until it is lost."""
        ended = threading.Event()

        def renew() -> None:
            while not ended.wait(self._lasts_s / _RENEWED_PER_LEASE):
                try:
                    if not self.renew(lease):
                        return
                except SQLAlchemyError as error:  # it may be back before the lease runs out
                    _log.warning("the lease of trial %d was not renewed: %s", lease.trial, error)

        thread = threading.Thread(target=renew, name=f"lease of trial {lease.trial}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def free_the_dead(self) -> None:
        """End the leases of processes of this machine that are gone, without waiting for it."""
        held = self._held()
        with self._engine.begin() as connection:
            owners = connection.execute(select(LEASES.c.owner).where(held).distinct()).scalars()
            for owner in [owner for owner in owners if _is_gone(owner)]:
                connection.execute(
                    update(LEASES).where(held, LEASES.c.owner == owner).values(expires=0.0)
                )

    def others_hold(self) -> bool:
        """Whether another process has a trial in its hands."""
        with self._engine.connect() as connection:
            query = select(LEASES.c.trial).where(self._held(), LEASES.c.owner != self._owner)
            return connection.execute(query).first() is not None

    def _held(self) -> ColumnElement[bool]:
        """Trials in anybody's hands."""
        ours = (LEASES.c.study == self._study) & (LEASES.c.trial != SEARCH)
        return ours & (LEASES.c.expires > self._clock())

    def _taken(self, trial: int, *conditions: ColumnElement[bool]) -> Lease | None:
        row = (LEASES.c.study == self._study) & (LEASES.c.trial == trial)
        self._make(trial)
        with self._engine.begin() as connection:
            changed = connection.execute(
                update(LEASES)
                .where(row, *conditions)
                .values(
                    owner=self._owner,
                    expires=self._clock() + self._lasts_s,
                    attempts=LEASES.c.attempts + 1,
                )
            )
            if changed.rowcount != 1:
                return None
            attempt = connection.execute(select(LEASES.c.attempts).where(row)).scalar_one()
        return Lease(trial, attempt)

    def _make(self, trial: int) -> None:
        """Make sure that there is a row for a trial."""
        row = (LEASES.c.study == self._study) & (LEASES.c.trial == trial)
        with self._engine.begin() as connection:
            if connection.execute(select(LEASES.c.trial).where(row)).first() is not None:
                return
        nobody = {"owner": "", "expires": 0.0, "attempts": 0}
        with contextlib.suppress(IntegrityError), self._engine.begin() as connection:
            connection.execute(insert(LEASES).values(study=self._study, trial=trial, **nobody))

    def _extend(self, connection: Connection, lease: Lease) -> bool:
        changed = connection.execute(
            update(LEASES).where(*self._mine(lease)).values(expires=self._clock() + self._lasts_s)
        )
        return changed.rowcount == 1

    def _mine(self, lease: Lease) -> tuple[ColumnElement[bool], ...]:
        return (
            LEASES.c.study == self._study,
            LEASES.c.trial == lease.trial,
            LEASES.c.owner == self._owner,
            LEASES.c.attempts == lease.attempt,
        )


def this_process() -> str:
    """A name of this process that no other has, on any machine."""
    return f"{_machine()}:{os.getpid()}:{_started(os.getpid())}"


def _is_gone(owner: str) -> bool:
    machine, _, rest = owner.partition(":")
    process_id, _, started = rest.partition(":")
    return machine == _machine() and process_id.isdecimal() and _started(int(process_id)) != started


def _machine() -> str:
    """This machine since it was started, or the container with its own process ids.

    The host's name is for people: machines that were made from one image share it.
    """
    name, boot = socket.gethostname().replace(":", "_"), _BOOT.read_text(encoding="ascii").strip()
    return f"{name}@{boot}.{os.stat('/proc/self/ns/pid').st_ino}"


def _started(process_id: int) -> str:
    """When a process began, in the kernel's ticks; "" where there is none."""
    try:
        stat = Path(f"/proc/{process_id}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[_START_TIME_FIELD]
