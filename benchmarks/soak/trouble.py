"""What goes on beside the callers: attacks, killed clients, loads, unloads and swaps."""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Final

from benchmarks.footprint import load, unload
from benchmarks.soak.questions import COMING_AND_GOING, SWAPPED, swap
from server.client import Client
from tests.support.hostile import ATTACKS

_PAUSE_S: Final = 0.5
_VICTIM_S: Final = (1.0, 3.0)


async def swaps(admin: str, repository: Path, done: Counter[str]) -> None:
    """Swap one model and load and unload another, for ever."""
    async with Client(admin) as client:
        for turn in itertools.count(1):
            swap(repository, turn)
            await load(client, SWAPPED)
            await load(client, COMING_AND_GOING)
            done["swaps and loads"] += 1
            await asyncio.sleep(_PAUSE_S)
            await unload(client, COMING_AND_GOING)
            await asyncio.sleep(_PAUSE_S)


async def kills(address: str, done: Counter[str], complaints: list[str]) -> None:
    """Start a process of callers and kill it while it calls, for ever."""
    source = random.Random(0)
    for seed in itertools.count(1000):
        victim = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.soak.callers", address, str(seed), "60"),
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            await asyncio.sleep(source.uniform(*_VICTIM_S))
        finally:
            with suppress(ProcessLookupError):
                victim.kill()
        output, _ = await victim.communicate()
        complaints += output.decode().splitlines()
        done["killed clients"] += 1
        await asyncio.sleep(_PAUSE_S)


async def attacks(address: str, done: Counter[str]) -> None:
    """One attack after another, for ever, each of the size for a quick look."""
    for attack, times, _ in itertools.cycle(ATTACKS.values()):
        left = await asyncio.to_thread(attack, address, times)
        try:
            await asyncio.sleep(_PAUSE_S)
        finally:
            for one in left:
                one.close()
        done["attacks"] += 1
