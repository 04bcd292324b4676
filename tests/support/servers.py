"""Real server processes, started as a user would start them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

READY = re.compile(r"Ready grpc=(\S+) metrics=(\S+) admin=(\S+)")
START_SECONDS = 60
STOP_SECONDS = 60


@dataclass(slots=True, kw_only=True)
class Server:
    """A server that serves."""

    process: subprocess.Popen[str]
    public: str
    metrics: str
    admin: str
    log: list[str]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit status."""
        self.process.send_signal(number)
        return self.process.wait(STOP_SECONDS)


def serve_command(repository: Path, state: Path, *flags: str) -> list[str]:
    """The command line; every port is any free one."""
    ports = ["--grpc-port", "0", "--metrics-port", "0", "--admin-port", "0"]
    base = [sys.executable, "-m", "server", "serve", str(repository), "--state", str(state)]
    return [*base, *ports, *flags]


@contextmanager
def running(
    repository: Path,
    state: Path,
    *flags: str,
    environment: dict[str, str] | None = None,
    under: Sequence[str] = (),
) -> Iterator[Server]:
    """Start a server, by the command `under` if given, wait for its Ready line, stop it after."""
    process = subprocess.Popen(
        [*under, *serve_command(repository, state, *flags)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="backslashreplace",
        env={**os.environ, **(environment or {})},
    )
    log: list[str] = []
    assert process.stdout is not None
    assert process.stderr is not None
    reader = threading.Thread(target=_collect, args=(process.stderr, log), daemon=True)
    reader.start()
    watchdog = threading.Timer(START_SECONDS, process.kill)
    watchdog.start()
    try:
        line = process.stdout.readline()
        match = READY.match(line)
        watchdog.cancel()
        assert match, _not_ready(process, line, log)
        yield Server(process=process, public=match[1], metrics=match[2], admin=match[3], log=log)
    finally:
        watchdog.cancel()
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        reader.join()
        process.stdout.close()
        process.stderr.close()


def _not_ready(process: subprocess.Popen[str], line: str, log: Sequence[str]) -> str:
    process.kill()
    return (
        f"no Ready line but {line!r}; the server ended with {process.wait()} (-9: it was killed "
        f"after {START_SECONDS} s, or just now) and said: {''.join(log)}"
    )


def _collect(stream: Iterator[str], log: list[str]) -> None:
    log.extend(stream)


def hone(
    *arguments: str, admin: str = "", timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    return subprocess.run(
        [sys.executable, "-m", "server", *arguments, *(["--admin", admin] if admin else [])],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
