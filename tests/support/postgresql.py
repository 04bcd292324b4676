"""A real PostgreSQL in a temporary directory, as a user without privileges."""

from __future__ import annotations

import os
import pwd
import secrets
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg

_HOMES: Final = Path("/usr/lib/postgresql")
_USER: Final = "hone"
_UNPRIVILEGED: Final = "nobody"


def programs() -> Path | None:
    """Where the newest PostgreSQL's programs lie; None where there is none."""
    found = sorted(_HOMES.glob("*/bin/postgres"), key=lambda one: int(one.parts[-3]))
    return found[-1].parent if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """A database that runs.

    Attributes:
        host: Where it listens.
        port: There.
        password: Of its only user.
    """

    host: str
    port: int
    password: str

    def url(self, password: str | None = None, name: str = "postgres") -> str:
        """Its address, with another password on request."""
        given = self.password if password is None else password
        return f"postgresql://{_USER}:{given}@{self.host}:{self.port}/{name}"

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        """A connection whose statements count at once."""
        return psycopg.connect(self.url(), autocommit=True)


@contextmanager
def postgresql() -> Iterator[Database]:
    """Run one, in a directory of its own, until the block ends."""
    home = programs()
    assert home is not None, "PostgreSQL is not installed"
    password = secrets.token_urlsafe(12)
    user: int | None = None
    with tempfile.TemporaryDirectory(prefix="hone-postgresql-") as name:
        directory = Path(name)
        secret, data, port = directory / "password", directory / "data", _free_port()
        secret.write_text(password, encoding="ascii")
        if os.geteuid() == 0:  # the server refuses to be root
            account = pwd.getpwnam(_UNPRIVILEGED)
            user = account.pw_uid
            for path in (directory, secret):
                os.chown(path, account.pw_uid, account.pw_gid)
        subprocess.run(
            [
                *(str(home / "initdb"), "-D", str(data), "-U", _USER, "-A", "scram-sha-256"),
                *(f"--pwfile={secret}", "--no-sync", "-E", "UTF8", "--locale=C"),
            ],
            check=True,
            capture_output=True,
            cwd=directory,
            user=user,
        )
        server = subprocess.Popen(
            [
                *(str(home / "postgres"), "-D", str(data), "-p", str(port), "-k", name),
                *("-h", "127.0.0.1", "-c", "fsync=off"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=directory,
            user=user,
        )
        try:
            _wait(home, port, server)
            yield Database(host="127.0.0.1", port=port, password=password)
        finally:
            server.send_signal(signal.SIGINT)  # ends connections as well
            server.wait(timeout=30)


def _wait(home: Path, port: int, server: subprocess.Popen[bytes]) -> None:
    command = [str(home / "pg_isready"), "-h", "127.0.0.1", "-p", str(port), "-t", "1"]
    for _ in range(100):
        assert server.poll() is None, "PostgreSQL ended at once"
        if subprocess.run(command, check=False, capture_output=True).returncode == 0:
            return
        time.sleep(0.1)
    raise TimeoutError("PostgreSQL does not answer")


def _free_port() -> int:
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
