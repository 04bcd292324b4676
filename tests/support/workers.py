"""Workers of a few lines of shell, for tests about what surrounds a job rather than the work."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Final

from optimizers.contract.job import JobState

ENDLESS: Final = "sleep 1000"
REPORT: Final = 'echo \'{"unix_s": 1, "stage": "work", "fraction": 0}\' >> $1/progress.jsonl'


def worker(script: str) -> tuple[str, ...]:
    """A worker's command; `$1` in the script is the job's directory."""
    return ("sh", "-c", script, "worker")


def result(state: JobState, variant: str = "") -> str:
    """A line of a worker's script that ends its job."""
    return f"echo '{json.dumps({'state': state, 'variant': variant})}' > $1/result.json"


async def until(holds: Callable[[], object]) -> None:
    """Wait until something is true, 30 s at most."""
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.01)
