"""Where a study is kept: any database that SQLAlchemy reaches, or this process's memory."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any, Final

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from sqlalchemy import Dialect, Engine, event
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from optimizers.contract.addresses import problem_of, without_password
from optimizers.contract.errors import NotSupported
from optimizers.contract.packages import how_to_install_cluster

_POSTGRESQL: Final = ("postgresql", "postgres")
"""Schemes of addresses that name no driver."""
_TRIES: Final = 5
_PAUSE_S: Final = 0.2
_LOCKED_S: Final = 60.0
"""How long a writer waits for another one of the same SQLite file."""
_RESTARTS_S: Final = 120.0
"""How long a database may be away that was there before."""
_ABANDONED_S: Final = 120
"""After so long amid a transaction, a process stands still; a paused job does for a minute."""
_GONE_S: Final = 30
"""After so long without a word, a connection over the network has ended."""


def engine_address(storage: str) -> str:
    """The URL of a database as SQLAlchemy wants it, with the driver that Hone brings.

    Raises:
        NotSupported: A part of its password would be taken for something else, and shown.
    """
    problem = problem_of(storage)
    if problem:
        raise NotSupported(f"search.storage ({without_password(storage)}): {problem}")
    scheme, separator, rest = storage.partition("://")
    driver = "+psycopg" if scheme in _POSTGRESQL else ""
    return f"{'postgresql' if driver else scheme}{driver}{separator}{rest}"


def engine_arguments(storage: str) -> dict[str, Any]:
    """What `sqlalchemy.create_engine` is given besides the address."""
    if storage.startswith("sqlite"):
        return {"connect_args": {"timeout": _LOCKED_S}}
    if storage.partition("://")[0] not in _POSTGRESQL:
        return {"pool_pre_ping": True}
    wanted = {
        "connect_timeout": _GONE_S,
        "keepalives_idle": _GONE_S // 2,
        "keepalives_interval": _GONE_S // 6,
        "keepalives_count": 3,
        "tcp_user_timeout": 1000 * _GONE_S,
    }
    left = {name: value for name, value in wanted.items() if f"{name}=" not in storage}
    return {"pool_pre_ping": True, "connect_args": left}


def prepare_for_failures(engine: Engine) -> None:
    """Have an engine, and the others of its database, live through what may happen to them.

    Args:
        engine: One that has reached its database.
    """
    wait_for_restarts(engine)
    end_abandoned_transactions(engine)


def end_abandoned_transactions(engine: Engine, after_s: int = _ABANDONED_S) -> None:
    """Have PostgreSQL end transactions of who stands still, since others wait for their locks.

    Args:
        engine: Of the database; what it connects from now on is meant.
        after_s: For how long nothing came, whole seconds above 0.
    """

    def limit(connection: Any, record: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET idle_in_transaction_session_timeout = {1000 * after_s}")
        connection.commit()

    if engine.dialect.name == "postgresql":
        event.listen(engine, "connect", limit)
        engine.dispose()


def wait_for_restarts(engine: Engine, longest_s: float = _RESTARTS_S) -> None:
    """Have an engine wait for its database, which it reached once, whenever that is away.

    A statement that is under way when it goes fails all the same.

    Args:
        engine: Of the database.
        longest_s: How long to wait.
    """

    def connect(dialect: Dialect, record: object, positional: Any, named: Any) -> Any:
        until = time.monotonic() + longest_s
        while True:
            try:
                return dialect.connect(*positional, **named)
            except dialect.loaded_dbapi.OperationalError:
                if time.monotonic() > until:
                    raise
                time.sleep(_PAUSE_S)

    if engine.dialect.name != "sqlite":
        event.listen(engine, "do_connect", connect)


def open_storage(storage: str) -> BaseStorage:
    """Open the database of studies, and make its tables where there are none.

    Args:
        storage: Its URL; "": this process's memory.

    Raises:
        NotSupported: It cannot be opened here.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if not storage:
        return InMemoryStorage()
    address, arguments = engine_address(storage), engine_arguments(storage)
    for tries_left in reversed(range(_TRIES)):
        try:
            opened = RDBStorage(address, engine_kwargs=dict(arguments))
        except (ArgumentError, ImportError, RuntimeError) as error:
            raise cannot_be_reached(error, storage) from error
        except (SQLAlchemyError, StorageInternalError) as error:
            # Two that open an empty database at once both want to make its tables.
            if not tries_left:
                raise cannot_be_reached(error, storage) from error
            time.sleep(_PAUSE_S)
        else:
            prepare_for_failures(opened.engine)
            return opened
    raise AssertionError("unreachable")


@contextlib.contextmanager
def failures_told(storage: str) -> Iterator[None]:
    """Say of a database that fails while the block works with it which one it is.

    Args:
        storage: Its URL.

    Raises:
        NotSupported: It failed.
    """
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        raise cannot_be_reached(error, storage) from error


def cannot_be_reached(error: Exception, storage: str) -> NotSupported:
    """What to tell of a database that failed, without any password.

    Args:
        error: Of SQLAlchemy, Optuna or the import of a driver.
        storage: Its URL.
    """
    address = without_password(storage)
    if isinstance(error, ImportError):
        return NotSupported(
            f"search.storage {address} needs a driver: {how_to_install_cluster([error.name or ''])}"
        )
    cause: BaseException = error
    while cause.__cause__ is not None:  # what the driver says is at the bottom
        cause = cause.__cause__
    said = " ".join(str(cause).partition("\n\n")[0].split())
    return NotSupported(
        f"search.storage cannot be opened or used ({address}): {without_password(said)}; expected "
        "the address of a database that this machine reaches and may write to, with its password, "
        "such as postgresql://user:password@host/name"
    )
