"""A process on any machine that takes part in a search which another machine runs.

It needs the search's store and database, nothing else: what it works with comes from the store,
what it finds goes to the database. What it measures ranks trials; the machine that serves measures
the winner again.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from optimizers.contract.addresses import (
    resolved_address,
    without_masked_password,
    without_password,
)
from optimizers.contract.errors import InvalidData, InvalidDocument, NotSupported
from optimizers.contract.host import cpu_budget
from optimizers.contract.search import Search
from optimizers.contract.study import write_explanation
from optimizers.ending import DISK_ERRORS
from optimizers.search.database import has_study
from optimizers.search.sharing import (
    STUDIES_FOLDER,
    Shared,
    localised,
    read_shared,
    why_study_ended,
)
from optimizers.search.store import Store
from optimizers.search.turns import Turns
from optimizers.search.workbench import Visit
from optimizers.searching import assist

_LOOK_EVERY_S: Final = 5.0
_PLACE: Final = "process-"
"""Begins the name of what a process has for itself."""
_SEVERAL: Final = 2
"""Processes of a machine always take turns: nobody knows how many will be started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """What somebody says who has a process take part in a search.

    Attributes:
        study: Address of a study in its store, or of the store where it has one that goes on.
        storage: Address of the database, or `env:NAME`; "": the one that the study names.
        home: Directory for model, data and what is built, for all studies; processes that share it
            take turns at measuring.
        minutes: Longest time to take part; 0: until the search ends.
    """

    study: str
    storage: str
    home: Path
    minutes: float


def take_part(
    invitation: Invitation, environment: Mapping[str, str], say: Callable[[str], None]
) -> None:
    """Try recipes until the search has ended, or it is time or told to leave.

    Args:
        invitation: Where to, and for how long.
        environment: Of this process, for addresses that are `env:NAME`.
        say: Tells people.

    Raises:
        HoneError: It cannot take part; the text says what to do.
    """
    address = resolved_address(invitation.study, environment, "--study")
    store, study = _found(address)
    shared = read_shared(store, study)
    ended = why_study_ended(store, study)
    if ended:
        say(f"study {study} has ended: {ended}")
        return
    search = _search_of(shared, store, invitation.storage, environment)
    if not has_study(search.storage, study):
        raise InvalidData(
            f"the database {without_password(search.storage)} has no study {study}; expected the "
            "one that the search keeps it in; give its address by --storage"
        )
    with _place_for_one(invitation.home) as directory:
        say(f"fetching model and data of study {study}")
        spec = localised(store, shared, directory / "files")
        spec = replace(
            spec,
            profile=replace(spec.profile, search=search),
            cpus=min(spec.cpus, max(1, int(cpu_budget()))),
            cache=invitation.home / "artefacts",
        )
        write_explanation(directory, shared.frame)
        visit = Visit(
            served_on=shared.host,
            turns=Turns(invitation.home / "measuring", _SEVERAL),
            leave=Dismissal(store, study, invitation.minutes),
        )
        say(f"taking part in study {study}")
        say(f"left study {study}: {assist(directory, spec, visit)}")


class Dismissal:
    """Tells when to take part no longer: on SIGTERM or SIGINT, after a time, at the search's end.

    Made in the main thread, whose signals it takes.
    """

    def __init__(self, store: Store, study: str, minutes: float) -> None:
        self._store = store
        self._study = study
        self._until = time.monotonic() + 60 * minutes if minutes else float("inf")
        self._minutes = minutes
        self._next_look = 0.0
        self._why = ""
        self._signalled = ""  # by itself: a signal may come amid a look at the store
        for wanted in (signal.SIGTERM, signal.SIGINT):
            signal.signal(wanted, self._told)

    def __call__(self) -> str:
        """Why to leave; "" to stay."""
        now = time.monotonic()
        if not self._why and now > self._until:
            self._why = f"its {self._minutes:g} minutes here are over"
        if not self._why and now >= self._next_look:
            self._next_look = now + _LOOK_EVERY_S
            self._why = self._why_ended()
        return self._signalled or self._why

    def _why_ended(self) -> str:
        try:
            return why_study_ended(self._store, self._study)
        except NotSupported:  # the store may be back by the time it is needed
            return ""

    def _told(self, number: int, frame: object) -> None:
        self._signalled = f"it was told to by {signal.Signals(number).name}"


def _found(address: str) -> tuple[Store, str]:
    """The store and the name of a study.

    Raises:
        InvalidData: No study there goes on, or several do.
    """
    store = Store(address)
    there = store.folders(STUDIES_FOLDER)
    root, separator, name = address.rstrip("/").rpartition(f"/{STUDIES_FOLDER}/")
    if separator and not there:
        return Store(root), name
    going_on = [name for name in there if not why_study_ended(store, name)]
    if len(going_on) == 1:
        return store, going_on[0]
    shown = without_password(address)
    if not going_on:
        raise InvalidData(
            f"no study goes on in the store {shown} ({len(there)} have ended); expected the "
            "search.artefacts of a search that runs"
        )
    raise InvalidData(
        f"{len(going_on)} studies go on in the store {shown}; name one of them by --study: "
        + ", ".join(f"{shown.rstrip('/')}/{STUDIES_FOLDER}/{name}" for name in going_on)
    )


def _search_of(
    shared: Shared, store: Store, storage: str, environment: Mapping[str, str]
) -> Search:
    """What a study's profile says, with addresses that can be used here."""
    search = shared.spec.profile.search
    if search is None:
        raise InvalidDocument(f"study {shared.frame.study} has no search")
    given = storage or without_masked_password(search.storage)
    if not given:
        raise InvalidDocument(
            f"study {shared.frame.study} is kept in a file of the machine that serves; expected "
            "search.storage to be a database that all machines reach"
        )
    said = "--storage" if storage else "search.storage of the study"
    address = resolved_address(given, environment, said)
    return replace(search, storage=address, artefacts=store.address)


@contextmanager
def _place_for_one(home: Path) -> Iterator[Path]:
    """A directory of this process, gone with the block; also those of processes that are gone.

    Whoever has one holds a lock on it, which the kernel lets go of when he dies. Process ids would
    not do: those of two containers that share `home` may be the same.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        directory, lock = _placed(home)
    except OSError as error:
        raise NotSupported(
            f"--home {home} cannot be used: {error.strerror}; expected a directory that this user "
            "may write to"
        ) from error
    with lock:
        try:
            yield directory
        except OSError as error:
            if error.errno not in DISK_ERRORS:
                raise
            raise NotSupported(f"the disk of --home {home} takes no more; make room") from error
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def _placed(home: Path) -> tuple[Path, ExitStack]:
    """A new directory, and what lets go of the lock on it."""
    with _locked(home, fcntl.LOCK_EX):
        for left in home.glob(f"{_PLACE}*"):
            with suppress(OSError), _locked(left, fcntl.LOCK_EX | fcntl.LOCK_NB):
                shutil.rmtree(left, ignore_errors=True)
        directory = Path(tempfile.mkdtemp(prefix=_PLACE, dir=home))
        lock = ExitStack()
        lock.enter_context(_locked(directory, fcntl.LOCK_EX))
    return directory, lock


@contextmanager
def _locked(directory: Path, how: int) -> Iterator[None]:
    """Lock a directory for the block.

    Raises:
        OSError: Somebody else has it and `how` says not to wait, or it is gone.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)
