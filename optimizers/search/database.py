"""The database that a study lives in: Optuna's tables, and beside them those that it lacks.

Nothing here depends on which database it is: SQLite in a file for one machine, PostgreSQL for
several.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy import (
    Column,
    ColumnElement,
    Engine,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    func,
    inspect,
    literal,
    select,
)
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError

from optimizers.search.storage import (
    cannot_be_reached,
    engine_address,
    engine_arguments,
    prepare_for_failures,
)

_METADATA: Final = MetaData()

LEASES: Final = Table(
    "hone_leases",
    _METADATA,
    Column("study", String(200), primary_key=True),
    Column("trial", Integer, primary_key=True, autoincrement=False),
    Column("owner", String(200), nullable=False),
    Column("expires", Float(53), nullable=False),
    Column("attempts", Integer, nullable=False),
)
"""Who works on which trial, and until when that is believed; see `leases`."""

TRIALS: Final = Table(
    "hone_trials",
    _METADATA,
    Column("study", String(200), primary_key=True),
    Column("trial", Integer, primary_key=True, autoincrement=False),
    Column("record", Text, nullable=False),
    Column("standings", Text, nullable=False),
)
"""The newest record of each trial and what it reached at each level, as JSON; see `ledger`."""

STUDIES: Final = Table(
    "hone_studies",
    _METADATA,
    Column("study", String(200), primary_key=True),
    Column("original", String(64), nullable=False, index=True),
)
"""Which model each study is about."""

BUDGETS: Final = Table(
    "hone_budgets",
    _METADATA,
    Column("study", String(200), primary_key=True),
    Column("budget", Integer, primary_key=True, autoincrement=False),
    Column("submission", String(200), nullable=False),
    Column("asked", Integer, nullable=False),
    Column("seconds", Float(53), nullable=False),
)
"""What each search spent on a study: how many trials it asked for, and how long it took."""


def open_database(url: str) -> Engine:
    """Connect, and make the tables that are missing.

    Args:
        url: `sqlite:///FILE`, `postgresql://USER@HOST/NAME` or any other of SQLAlchemy's.

    Raises:
        NotSupported: It cannot be reached, or its driver is not installed.
    """
    try:
        engine = create_engine(engine_address(url), **engine_arguments(url))
        try:
            _METADATA.create_all(engine)
        except (IntegrityError, OperationalError, ProgrammingError):
            _METADATA.create_all(engine)  # another process made them between look and attempt
    except (ImportError, SQLAlchemyError) as error:
        raise cannot_be_reached(error, url) from error
    prepare_for_failures(engine)
    return engine


def clock_of(engine: Engine) -> Callable[[], ColumnElement[float]]:
    """Seconds that all who share a database agree on, in a statement for it.

    PostgreSQL tells its own time. SQLite's file is one machine's, whose clock will do.
    """
    if engine.dialect.name == "postgresql":
        return lambda: func.date_part("epoch", func.clock_timestamp(), type_=Float(53))
    return lambda: literal(time.time())


@contextmanager
def reached_database(url: str) -> Iterator[Engine]:
    """A database for the block, in which nothing is made.

    Raises:
        NotSupported: It cannot be reached, or its driver is not installed.
    """
    try:
        engine = create_engine(engine_address(url), **engine_arguments(url))
        try:
            yield engine
        finally:
            engine.dispose()
    except (ImportError, SQLAlchemyError) as error:
        raise cannot_be_reached(error, url) from error


def has_study(url: str, study: str) -> bool:
    """Whether a database knows a study.

    Raises:
        NotSupported: It cannot be reached, or its driver is not installed.
    """
    with reached_database(url) as engine:
        if not inspect(engine).has_table(STUDIES.name):
            return False
        with engine.connect() as connection:
            query = select(STUDIES.c.study).where(STUDIES.c.study == study)
            return connection.execute(query).first() is not None
