"""Who works on which trial: leases that end by themselves where their holder has died.

A lease is a row. Whoever changes it from expired to their own has the trial: one UPDATE with the
condition in its WHERE, which any database carries out for one of several that try. Its holder
renews it while it lives; a trial whose lease has run out is there for anybody. Clocks of machines
that share a study must agree to within a few seconds.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from sqlalchemy import ColumnElement, Engine, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from optimizers.search.database import LEASES

_log = logging.getLogger(__name__)

_LASTS_S: Final = 30.0
_RENEWED_PER_LEASE: Final = 4
_START_TIME_FIELD: Final = 19
"""In /proc/PID/stat, counted after the name's closing bracket."""


class Lease:
    """One trial in the hands of this process.

    Attributes:
        trial: Its number.
        attempt: How often it was begun, this time included.
    """

    def __init__(self, trial: int, attempt: int) -> None:
        self.trial = trial
        self.attempt = attempt
        self._lost = threading.Event()

    @property
    def is_lost(self) -> bool:
        """Whether somebody else has it now, because it could not be renewed in time."""
        return self._lost.is_set()

    def lose(self) -> None:
        """Note that somebody else has it."""
        self._lost.set()


class Leases:
    """The leases of one study, as one process sees them. Its threads may share it."""

    def __init__(
        self,
        engine: Engine,
        study: str,
        *,
        owner: str,
        lasts_s: float = _LASTS_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Act for `owner`.

        Args:
            engine: Of the study's database.
            study: Its name.
            owner: Names this process and no other, for example `this_process()`.
            lasts_s: How long a lease holds that is not renewed, above 0.
            clock: Seconds that all who share the study agree on.
        """
        self._engine = engine
        self._study = study
        self._owner = owner
        self._lasts_s = lasts_s
        self._clock = clock

    def claim(self, trial: int) -> Lease | None:
        """Take a trial that nobody holds; None where somebody does."""
        row = (LEASES.c.study == self._study) & (LEASES.c.trial == trial)
        self._make(trial)
        with self._engine.begin() as connection:
            now = self._clock()
            changed = connection.execute(
                update(LEASES)
                .where(row, LEASES.c.expires <= now)
                .values(
                    owner=self._owner,
                    expires=now + self._lasts_s,
                    attempts=LEASES.c.attempts + 1,
                )
            )
            if changed.rowcount != 1:
                return None
            attempt = connection.execute(select(LEASES.c.attempts).where(row)).scalar_one()
        return Lease(trial, attempt)

    def renew(self, lease: Lease) -> bool:
        """Hold a trial for longer; False where it is lost."""
        with self._engine.begin() as connection:
            changed = connection.execute(
                update(LEASES)
                .where(*self._mine(lease))
                .values(expires=self._clock() + self._lasts_s)
            )
        if changed.rowcount != 1:
            lease.lose()
        return not lease.is_lost

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
        """Renew a lease from a thread until the block ends; `lease.is_lost` tells if it failed."""
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
        held = (LEASES.c.study == self._study) & (LEASES.c.expires > self._clock())
        with self._engine.begin() as connection:
            owners = connection.execute(select(LEASES.c.owner).where(held).distinct()).scalars()
            for owner in [owner for owner in owners if _is_gone(owner)]:
                connection.execute(
                    update(LEASES).where(held, LEASES.c.owner == owner).values(expires=0.0)
                )

    def others_hold(self) -> bool:
        """Whether another process has a trial in its hands."""
        held = (LEASES.c.study == self._study) & (LEASES.c.expires > self._clock())
        with self._engine.connect() as connection:
            query = select(LEASES.c.trial).where(held, LEASES.c.owner != self._owner)
            return connection.execute(query).first() is not None

    def _make(self, trial: int) -> None:
        """Make sure that there is a row for a trial."""
        row = (LEASES.c.study == self._study) & (LEASES.c.trial == trial)
        with self._engine.begin() as connection:
            if connection.execute(select(LEASES.c.trial).where(row)).first() is not None:
                return
        nobody = {"owner": "", "expires": 0.0, "attempts": 0}
        with contextlib.suppress(IntegrityError), self._engine.begin() as connection:
            connection.execute(insert(LEASES).values(study=self._study, trial=trial, **nobody))

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
    """This machine, or the container with its own process ids."""
    return f"{socket.gethostname().replace(':', '_')}@{os.stat('/proc/self/ns/pid').st_ino}"


def _started(process_id: int) -> str:
    """When a process began, in the kernel's ticks; "" where there is none."""
    try:
        stat = Path(f"/proc/{process_id}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[_START_TIME_FIELD]
