"""What searches have learned and keep: which studies there are, and how one is removed.

Nothing removes a study by itself: the next search of the same model learns from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import optuna
from optuna.storages import RDBStorage
from sqlalchemy import delete, func, inspect, select

from optimizers.contract.addresses import resolved_address
from optimizers.contract.errors import InvalidData, InvalidDocument, NotSupported
from optimizers.search.database import (
    BUDGETS,
    LEASES,
    STUDIES,
    TRIALS,
    clock_of,
    reached_database,
)
from optimizers.search.sharing import remove_study
from optimizers.search.storage import failures_told, open_storage
from optimizers.search.store import Store

_OURS: Final = (LEASES, TRIALS, BUDGETS, STUDIES)
_FILE: Final = "sqlite:///"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """One study in a database.

    Attributes:
        name: The model, its version, the profile and a digest of what is searched for.
        database: Its address.
        trials: How many recipes were tried.
        seconds: What all its searches took together.
        is_worked_on: Whether somebody runs its search, or has one of its trials in his hands.
    """

    name: str
    database: str
    trials: int
    seconds: float
    is_worked_on: bool


def databases(state: Path | None, storage: str, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Addresses of databases with studies.

    Args:
        state: A server's state directory, with a file for each original.
        storage: Address of a shared database, or `env:NAME`; "": none.
        environment: Of this process.

    Raises:
        InvalidDocument: Neither is given, or there is no such directory.
        NotSupported: That variable is not set.
    """
    if storage:
        return (resolved_address(storage, environment, "--storage"),)
    if state is None or not state.is_dir():
        raise InvalidDocument(
            f"{state or 'nothing'} is no state directory; expected --state DIRECTORY, as the "
            "server was given it, or --storage ADDRESS of a shared database"
        )
    return tuple(f"{_FILE}{file.resolve()}" for file in sorted(state.glob("studies/*.sqlite")))


def kept_studies(places: Sequence[str]) -> tuple[Kept, ...]:
    """Every study in some databases, by name.

    Raises:
        NotSupported: One of them cannot be reached.
    """
    found = [one for place in places for one in _kept_in(place)]
    return tuple(sorted(found, key=lambda one: one.name))


def forget(places: Sequence[str], name: str, store: Store | None) -> None:
    """Remove a study, also from the store that machines shared for it.

    A file without any study goes as well.

    Args:
        places: Databases, one of which has it.
        name: Of the study.
        store: See above; None: there is none.

    Raises:
        InvalidData: There is no such study.
        NotSupported: Somebody works on it, or a database or the store cannot be reached.
    """
    kept = next((one for one in kept_studies(places) if one.name == name), None)
    if kept is None:
        raise InvalidData(f"there is no study {name} here; `hone studies` shows which there are")
    if kept.is_worked_on:
        raise NotSupported(f"somebody works on study {name}; cancel its job and end its helpers")
    if store is not None:
        remove_study(store, name)
    with failures_told(kept.database):
        _forget_at_optuna(kept.database, name)
        with reached_database(kept.database) as engine, engine.begin() as connection:
            for table in _OURS:
                connection.execute(delete(table).where(table.c.study == name))
    if kept.database.startswith(_FILE) and not _kept_in(kept.database):
        Path(kept.database.removeprefix(_FILE)).unlink(missing_ok=True)


def _kept_in(place: str) -> list[Kept]:
    with reached_database(place) as engine:
        if not inspect(engine).has_table(STUDIES.name):
            return []
        with engine.connect() as connection:
            names = connection.execute(select(STUDIES.c.study)).scalars().all()
            counts = select(TRIALS.c.study, func.count()).group_by(TRIALS.c.study)
            trials = {row[0]: row[1] for row in connection.execute(counts)}
            sums = select(BUDGETS.c.study, func.sum(BUDGETS.c.seconds)).group_by(BUDGETS.c.study)
            seconds = {row[0]: row[1] for row in connection.execute(sums)}
            now = clock_of(engine)()
            held = select(LEASES.c.study).where(LEASES.c.expires > now).distinct()
            worked_on = set(connection.execute(held).scalars())
    return [
        Kept(
            name=name,
            database=place,
            trials=trials.get(name, 0),
            seconds=seconds.get(name, 0.0),
            is_worked_on=name in worked_on,
        )
        for name in names
    ]


def _forget_at_optuna(place: str, name: str) -> None:
    storage = open_storage(place)
    assert isinstance(storage, RDBStorage)
    try:
        with suppress(KeyError):
            optuna.delete_study(study_name=name, storage=storage)
    finally:
        storage.remove_session()
        storage.engine.dispose()
