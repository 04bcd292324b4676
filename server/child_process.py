"""Processes that work for the server: started without a fork, waited for, ended as a session."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

_STARTER: Final = ThreadPoolExecutor(1, "start-worker")
"""Its thread lives as long as the server: workers die with the thread that started them."""


async def start_process(
    command: Sequence[str], *, environment: Mapping[str, str], log: Path, folder: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, which reads nothing and writes to `log`.

    Args:
        command: What to run.
        environment: All of its environment.
        log: Gets what it says, after what is there.
        folder: Where it works; None for where the server does.

    Raises:
        OSError: It could not be started.
    """

    def start() -> subprocess.Popen[bytes]:
        # Without a fork, which would hold up every thread that serves while it copies page tables.
        with log.open("ab") as file:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
                env=environment,
                cwd=folder,
            )

    return await asyncio.get_running_loop().run_in_executor(_STARTER, start)


async def end_of(process: subprocess.Popen[bytes]) -> None:
    """Wait for its end without a thread of its own."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    descriptor = os.pidfd_open(process.pid)
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    process.wait()


def kill_group(process_id: int) -> None:
    """End a process with everything in its group, and in other groups of its session."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process_id, signal.SIGKILL)
    for process in _in_session(process_id):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process, signal.SIGKILL)


def _in_session(session: int) -> list[int]:
    """The processes of a session that live."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if os.getsid(int(folder.name)) == session:
                    found.append(int(folder.name))
    return found
