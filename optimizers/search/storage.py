"""Where a study is kept: any database that SQLAlchemy reaches, or this process's memory."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any, Final

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from optimizers.contract.addresses import problem_of, without_password
from optimizers.contract.errors import NotSupported
from optimizers.contract.packages import how_to_install_cluster

_TRIES: Final = 5
_PAUSE_S: Final = 0.2
_LOCKED_S: Final = 60.0
"""How long a writer waits for another one of the same SQLite file."""


def engine_address(storage: str) -> str:
    """The URL of a database as SQLAlchemy wants it, with the driver that Hone brings.

    Raises:
        NotSupported: A part of its password would be taken for something else, and shown.
    """
    problem = problem_of(storage)
    if problem:
        raise NotSupported(f"search.storage ({without_password(storage)}): {problem}")
    scheme, separator, rest = storage.partition("://")
    driver = "+psycopg" if scheme in ("postgresql", "postgres") else ""
    return f"{'postgresql' if driver else scheme}{driver}{separator}{rest}"


def engine_arguments(storage: str) -> dict[str, Any]:
    """What `sqlalchemy.create_engine` is given besides the address."""
    if storage.startswith("sqlite"):
        return {"connect_args": {"timeout": _LOCKED_S}}
    return {"pool_pre_ping": True}


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
            return RDBStorage(address, engine_kwargs=dict(arguments))
        except (ArgumentError, ImportError, RuntimeError) as error:
            raise cannot_be_reached(error, storage) from error
        except (SQLAlchemyError, StorageInternalError) as error:
            # Two that open an empty database at once both want to make its tables.
            if not tries_left:
                raise cannot_be_reached(error, storage) from error
            time.sleep(_PAUSE_S)
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
