"""What the kernel says of processes."""

from __future__ import annotations

import asyncio
from pathlib import Path


def state(process: int) -> str:
    """The letter of a process's state, `T` for one that is stopped; "" where there is none."""
    return _fields(process)[0]


def descendants(process: int) -> list[int]:
    """Living processes below another one, parents first."""
    parents = {
        int(folder.name): _fields(int(folder.name))
        for folder in Path("/proc").iterdir()
        if folder.name.isdigit()
    }
    found, waiting = [], [process]
    while waiting:
        above = waiting.pop(0)
        children = [one for one, (letter, parent) in parents.items() if parent == above != 0]
        children = [one for one in children if parents[one][0] not in ("Z", "")]
        found += children
        waiting += children
    return found


async def gone(processes: list[int], within_s: float) -> None:
    """Wait until every process has ended."""
    async with asyncio.timeout(within_s):
        while any(state(process) not in ("Z", "") for process in processes):
            await asyncio.sleep(0.02)


def _fields(process: int) -> tuple[str, int]:
    """State and parent."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "", 0
    letter, parent = text.rpartition(")")[2].split()[:2]
    return letter, int(parent)
