"""A child process that is stopped, with all it started, while its job is paused."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from optimizers.contract.job import (
    LOG_FILE,
    PAUSE_FILE,
    PAUSES_FILE,
    Progress,
    append_progress,
    last_progress,
)
from optimizers.pausing import PAUSES_VARIABLE, note_begin, note_end

_PAUSED: Final = "paused"
_LOOK_EVERY_S: Final = 0.1
_TELL_EVERY_S: Final = 2.0


class TookTooLong(Exception):
    """A child worked for longer than it may."""


def run_child(
    command: Sequence[str], directory: Path, *, environment: Mapping[str, str], limit_s: float
) -> int:
    """Run a child to its end and, while the job's directory holds a file `pause`, stop it.

    A pause is progress: it is reported when it begins and every two seconds.

    Args:
        command: What to run.
        directory: The job's; what the child says goes to its log.
        environment: All of the child's.
        limit_s: How long it may work; pauses do not count. 0: any time.

    Returns:
        The child's return code.

    Raises:
        TookTooLong: It was ended at its limit.
    """
    environment = {**environment, PAUSES_VARIABLE: str((directory / PAUSES_FILE).absolute())}
    with (
        (directory / LOG_FILE).open("ab") as log,
        subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, process_group=_own_group()
        ) as child,
        _EndOf(child) as end,
    ):
        begun, paused_s = time.monotonic(), 0.0
        try:
            while not end.comes_within(_LOOK_EVERY_S):
                if (directory / PAUSE_FILE).exists():
                    paused_s += _stay_paused(child.pid, directory, end)
                elif limit_s and time.monotonic() - begun - paused_s > limit_s:
                    raise TookTooLong
        except BaseException:
            child.kill()
            raise
    return child.returncode


def _own_group() -> int | None:
    """What makes a child the first of a process group of its own, where a server started us.

    When the last of a session that is outside of a group ends, the kernel lets stopped processes of
    that group go on and hangs up on them: those that were stopped before they could ask to die with
    their parent are not left behind. On a terminal, groups are the shell's to make.
    """
    return 0 if os.getsid(0) == os.getpid() else None


class _EndOf:
    """Waits for the end of a child without asking again and again."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self._descriptor = os.pidfd_open(child.pid)

    def __enter__(self) -> _EndOf:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._descriptor)

    def comes_within(self, seconds: float) -> bool:
        """Whether the child has ended, or does so soon."""
        return bool(select.select([self._descriptor], [], [], seconds)[0])


def _stay_paused(child: int, directory: Path, end: _EndOf) -> float:
    """Stop a child until its job's pause is over or somebody kills it; the seconds it took."""
    begun, told = time.monotonic(), float("-inf")
    note_begin(directory / PAUSES_FILE)
    _signal_all(child, signal.SIGSTOP)
    before = last_progress(directory) or Progress(unix_s=time.time(), stage="", fraction=0.0)
    try:
        while (why := _reason(directory)) is not None:
            if time.monotonic() - told >= _TELL_EVERY_S:
                told = time.monotonic()
                _report(directory, replace(before, stage=_PAUSED, text=why))
            if end.comes_within(_LOOK_EVERY_S):
                break
        _report(directory, before)
        note_end(directory / PAUSES_FILE, time.monotonic() - begun)
    finally:
        _signal_all(child, signal.SIGCONT)
    return time.monotonic() - begun


def _report(directory: Path, progress: Progress) -> None:
    append_progress(directory, replace(progress, unix_s=time.time()))


def _reason(directory: Path) -> str | None:
    """Why a job is paused; None when it is not."""
    try:
        return (directory / PAUSE_FILE).read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return None


def _signal_all(root: int, number: signal.Signals) -> None:
    """Signal a process and all that descend from it, whatever groups they have put themselves in.

    Parents first, and again until there is nobody new: what was started meanwhile is found as well.
    """
    told: set[int] = set()
    while found := [process for process in _family(root) if process not in told]:
        for process in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)
        told.update(found)


def _family(root: int) -> list[int]:
    """A process and its descendants, parents first."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (folder / "stat").read_text(encoding="utf-8", errors="replace")
                parent = int(fields.rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(folder.name))
    found = [root]
    for process in found:
        found += children.get(process, ())
    return found
