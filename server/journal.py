"""Routes and the append-only event log, in SQLite; a route and its event change together."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from server.errors import FailedPrecondition

_log = logging.getLogger(__name__)

_T = TypeVar("_T")
_Arguments = ParamSpec("_Arguments")

_FORMAT: Final = 1
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS routes (
    model TEXT NOT NULL, version INTEGER NOT NULL, variant TEXT NOT NULL,
    previous TEXT NOT NULL, changed_unix_s REAL NOT NULL, PRIMARY KEY (model, version)
) STRICT;
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, unix_s REAL NOT NULL, model TEXT NOT NULL,
    version INTEGER NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS events_by_model ON events (model, id);
CREATE TABLE IF NOT EXISTS gate_uses (
    gate_sha256 TEXT NOT NULL, model TEXT NOT NULL, uses INTEGER NOT NULL,
    PRIMARY KEY (gate_sha256, model)
) STRICT;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Which variant answers by default, and which did before; "" when none did."""

    model: str
    version: int
    variant: str
    previous: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to a model, for people to read."""

    id: int
    unix_s: float
    model: str
    version: int
    kind: str
    text: str


class Journal:
    """The journal of one state directory. Belongs to an event loop.

    A disk that is busy with a variant's weights takes a tenth of a second for a flush, so a thread
    of the journal's own writes, in the order of the calls.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the journal at `path`.

        Raises:
            FailedPrecondition: The file is damaged or was written by a newer Hone.
        """
        try:
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            (written,) = self._database.execute("PRAGMA user_version").fetchone()
            if written > _FORMAT:
                raise FailedPrecondition(
                    f"{path.name} has format {written}, this Hone knows {_FORMAT}; "
                    "use the newer Hone or another --state"
                )
            self._database.executescript(f"{_SCHEMA} PRAGMA user_version = {_FORMAT};")
            self._reader = sqlite3.connect(path, isolation_level=None)
        except sqlite3.DatabaseError as error:
            raise FailedPrecondition(
                f"the journal {path.name} cannot be read ({error}); move it away to start with "
                "empty routes: originals will answer, and variants stay on disk"
            ) from error
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="journal")

    def route(self, model: str, version: int) -> Route | None:
        """The route of a version, None before the first change."""
        row = self._reader.execute(
            "SELECT variant, previous FROM routes WHERE model = ? AND version = ?",
            (model, version),
        ).fetchone()
        if row is None:
            return None
        return Route(model=model, version=version, variant=row[0], previous=row[1])

    async def set_route(self, route: Route, kind: str, text: str) -> None:
        """Change a route and record why, both or neither; on disk when this returns.

        Raises:
            FailedPrecondition: The file cannot be written.
        """
        await self._written(self._set_route, route, kind, text)

    def record(self, model: str, version: int, kind: str, text: str) -> None:
        """Add an event soon; where the file cannot be written it stands in the log only."""
        self._writer.submit(self._record, time.time(), model, version, kind, text)

    async def events(self, model: str = "", limit: int = 100) -> list[Event]:
        """The newest events, oldest first; of one model when it is named."""
        return await self._written(self._events, model, limit)

    async def spend_gate(self, gate_sha256: str, model: str) -> int:
        """Count one more use of gate data for a model; the number of uses, once it is on disk.

        Raises:
            FailedPrecondition: The file cannot be written.
        """
        return await self._written(self._spend_gate, gate_sha256, model)

    def close(self) -> None:
        """Write what is left and close the file."""
        self._writer.shutdown()
        self._reader.close()
        self._database.close()

    # On the writer's thread

    async def _written(
        self, work: Callable[_Arguments, _T], *args: _Arguments.args, **named: _Arguments.kwargs
    ) -> _T:
        """What `work` gives, done after everything that was asked before."""
        return await asyncio.wrap_future(self._writer.submit(work, *args, **named))

    def _set_route(self, route: Route, kind: str, text: str) -> None:
        now = time.time()
        with _writing(), self._database:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.execute(
                "INSERT OR REPLACE INTO routes VALUES (?, ?, ?, ?, ?)",
                (route.model, route.version, route.variant, route.previous, now),
            )
            self._insert_event(now, route.model, route.version, kind, text)

    def _record(self, now: float, model: str, version: int, kind: str, text: str) -> None:
        try:
            self._insert_event(now, model, version, kind, text)
        except sqlite3.Error:
            _log.exception(
                "event of %s version %d not recorded: %s: %s", model, version, kind, text
            )

    def _events(self, model: str, limit: int) -> list[Event]:
        rows = self._database.execute(
            "SELECT id, unix_s, model, version, kind, text FROM events "
            "WHERE ? IN ('', model) ORDER BY id DESC LIMIT ?",
            (model, limit),
        ).fetchall()
        return [
            Event(id=row[0], unix_s=row[1], model=row[2], version=row[3], kind=row[4], text=row[5])
            for row in reversed(rows)
        ]

    def _spend_gate(self, gate_sha256: str, model: str) -> int:
        with _writing():
            (uses,) = self._database.execute(
                "INSERT INTO gate_uses VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET uses = uses + 1 "
                "RETURNING uses",
                (gate_sha256, model),
            ).fetchone()
        return int(uses)

    def _insert_event(self, now: float, model: str, version: int, kind: str, text: str) -> None:
        self._database.execute(
            "INSERT INTO events (unix_s, model, version, kind, text) VALUES (?, ?, ?, ?, ?)",
            (now, model, version, kind, text),
        )


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise FailedPrecondition(
            f"the journal cannot be written ({error}); is the state directory's disk full?"
        ) from error
