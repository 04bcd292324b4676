"""One worker process over one job directory: started, listened to, ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from optimizers.contract.job import LOG_FILE, PROGRESS_FILE
from optimizers.contract.processors import beside_a_worker, processors_for_workers
from server.child_process import end_of, kill_group, start_process

WORKER: Final = (sys.executable, "-m", "optimizers", "worker")
"""The command that works on the job directory given as its last argument."""

_LOOK_EVERY_S: Final = 1.0
_LOOKS_PER_SILENCE: Final = 4
_FULL_BELOW_BYTES: Final = 1 << 20


async def run_worker(
    command: Sequence[str], directory: Path, *, stall_timeout_s: float, stop: asyncio.Event
) -> str:
    """Run a worker until it ends, falls silent or is told to stop; no process of it stays.

    Args:
        command: What to run; the directory is appended.
        directory: The job's.
        stall_timeout_s: A worker that adds nothing to its progress for longer is ended.
        stop: Ends the worker when it is set.

    Returns:
        Why there would be no result; it counts only if the worker has left none.

    Raises:
        OSError: It could not be started.
    """
    process = await start_process(
        [*command, str(directory)],
        environment={
            **os.environ,
            **processors_for_workers(),
            "HONE_WORKER_PARENT": str(os.getpid()),
        },
        log=directory / LOG_FILE,
    )
    ended = asyncio.create_task(end_of(process))
    stopped = asyncio.create_task(stop.wait())
    try:
        with beside_a_worker():
            silent = await _falls_silent(directory, stall_timeout_s, (ended, stopped))
    finally:
        stopped.cancel()
        kill_group(process.pid)
        await ended
    if silent:
        return f"the worker reported nothing for {stall_timeout_s:.0f} s"
    return _why(process.returncode, directory)


async def _falls_silent(
    directory: Path, timeout_s: float, ends: Iterable[asyncio.Task[Any]]
) -> bool:
    """Wait for one of `ends`; True when nothing was reported for `timeout_s` before that.

    Silence counts from now: a job that is taken up again brings an old progress file along.
    """
    look_every_s = min(_LOOK_EVERY_S, timeout_s / _LOOKS_PER_SILENCE)
    newest, heard_s = _last_report_ns(directory), time.monotonic()
    while time.monotonic() - heard_s <= timeout_s:
        done, _ = await asyncio.wait(
            ends, timeout=look_every_s, return_when=asyncio.FIRST_COMPLETED
        )
        if done:
            return False
        report = _last_report_ns(directory)
        if report != newest:
            newest, heard_s = report, time.monotonic()
    return True


def _last_report_ns(directory: Path) -> int:
    """When progress was last written, in nanoseconds of the file system's clock; 0 for never."""
    with contextlib.suppress(OSError):
        return (directory / PROGRESS_FILE).stat().st_mtime_ns
    return 0


def _why(return_code: int | None, directory: Path) -> str:
    if return_code is not None and return_code < 0:
        name = signal.Signals(-return_code).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"the worker was ended by {name}{hint}"
    with contextlib.suppress(OSError):
        if shutil.disk_usage(directory).free < _FULL_BELOW_BYTES:
            return "no space was left on the state directory's disk"
        lines = (directory / LOG_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        if last:
            return f"the worker ended with status {return_code}: {last[:300]}"
    return f"the worker ended with status {return_code} and said nothing"
