"""A PostgreSQL of a test's own, on a socket in a folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

PASSWORD = "chosen-for-tests"
_USER = "hone"


@contextmanager
def postgres() -> Iterator[str]:
    """Start a server and end it afterwards.

    Yields:
        The folder with its socket.
    """
    if _programs() is None:
        pytest.skip("NO POSTGRESQL HERE: NEEDS initdb AND pg_ctl, AS IN DEBIAN'S postgresql")
    with tempfile.TemporaryDirectory(prefix="hone-postgres-") as folder:
        secret = Path(folder, "password")
        secret.write_text(PASSWORD, encoding="ascii")
        if os.geteuid() == 0:  # which PostgreSQL refuses to run as
            for path in (folder, secret):
                shutil.chown(path, "postgres")
        _run(
            folder, "initdb", "-A", "scram-sha-256", f"--pwfile={secret}", "-U", _USER, "--no-sync"
        )
        start(folder)
        try:
            yield folder
        finally:
            stop(folder)


def start(folder: str) -> None:
    """Start the server whose files lie in a folder."""
    options = f"-F -c listen_addresses= -c unix_socket_directories={folder}"
    _run(folder, "pg_ctl", "-w", "-l", f"{folder}/log", "-o", options, "start")


def stop(folder: str) -> None:
    """End it as a power failure would, with every connection to it."""
    _run(folder, "pg_ctl", "-m", "immediate", "stop")


def _run(folder: str, program: str, *arguments: str) -> None:
    programs = _programs()
    assert programs is not None
    as_whom = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    subprocess.run(
        [*as_whom, str(programs / program), "-D", f"{folder}/data", *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
    )


def new_database(folder: str) -> str:
    """The URL, password included, of an empty database on the server with that socket."""
    name = f"study_{uuid4().hex}"
    with psycopg.connect(
        f"host={folder} user={_USER} password={PASSWORD} dbname=postgres", autocommit=True
    ) as connection:
        connection.execute(f"create database {name}".encode())
    return f"postgresql://{_USER}:{PASSWORD}@/{name}?host={folder}"


def _programs() -> Path | None:
    found = shutil.which("initdb")
    if found:
        return Path(found).parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return versions[-1].parent if versions else None
