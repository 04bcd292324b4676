"""Servers under measurement: started, watched through /proc as whole process trees, stopped."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
STOP_S: Final = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Resident memory of a process tree, in bytes.

    Attributes:
        rss: Resident pages; shared ones count in every process that maps them.
        pss: The same with shared pages divided among those who map them.
    """

    rss: int
    pss: int


@contextmanager
def running(command: list[str], log: Path, directory: Path | None = None) -> Iterator[int]:
    """A process in a session of its own, output to `log`; ended with all it started."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=directory,
            start_new_session=True,
        )
    try:
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 9)


def tree(root: int) -> list[int]:
    """The process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                children.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))
    found = [root]
    for process in found:
        found += children.get(process, [])
    return found


def processor_seconds(root: int) -> float:
    """User and system time that the tree, and children it has waited for, took so far."""
    ticks = 0
    for process in tree(root):
        with suppress(OSError):
            ticks += sum(int(field) for field in _stat(process)[11:15])
    return ticks / TICKS_PER_S


def memory(root: int) -> Memory:
    """What the tree holds now."""
    totals = {"Rss:": 0, "Pss:": 0}
    for process in tree(root):
        with suppress(OSError):
            for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]:
                name, size, *_ = line.split()
                if name in totals:
                    totals[name] += int(size) * 1024
    return Memory(rss=totals["Rss:"], pss=totals["Pss:"])


def is_alive(process: int) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return _stat(process)[0] != "Z"
    except OSError:
        return False


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


def _stat(process: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on: 0 state, 1 parent, 11 to 14 processor ticks."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
