"""Every attack in earnest: others are answered within a second, and memory comes back."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Final

from benchmarks.soak.questions import outputs_of, question
from benchmarks.soak.watch import sample
from server.client import CallFailed, Client
from server.pb import open_inference_pb2 as pb
from tests.support.hostile import ATTACKS
from tests.support.servers import Server

_ANSWER_S: Final = 1.0
_REST_S: Final = 2.0
_KEPT_MB: Final = 64
"""What allocators may keep after an attack; attacks repeated must not add to it."""


async def in_earnest(server: Server) -> list[str]:
    """Attack after attack, each twice; what was wrong."""
    faults: list[str] = []
    print("attack                            answered while, after (ms)  MB before, while, after")
    for name, (attack, _, times) in ATTACKS.items():
        for turn in range(2):
            before = sample(server.process.pid)
            left = await asyncio.to_thread(attack, server.public, times)
            try:
                during_ms = await _answer_ms(server)
                during = sample(server.process.pid)
            except (CallFailed, OSError) as error:
                return [*faults, f"{name}: nobody is answered: {error!r}"]
            finally:
                for one in left:
                    one.close()
            await asyncio.sleep(_REST_S)
            after_ms = await _answer_ms(server)
            after = sample(server.process.pid)
            sizes = [round(one.resident / 1e6) for one in (before, during, after)]
            print(f"{name:33} {during_ms:8.0f} {after_ms:8.0f} {sizes}", flush=True)
            if max(during_ms, after_ms) > 1e3 * _ANSWER_S:
                faults.append(f"{name}: others waited {max(during_ms, after_ms):.0f} ms")
            if turn and sizes[2] > sizes[0] + _KEPT_MB:
                faults.append(f"{name}: memory went from {sizes[0]} to {sizes[2]} MB")
    return faults


async def _answer_ms(server: Server) -> float:
    """How long a new client waits for the right answer.

    Raises:
        CallFailed: It got none.
    """
    one = question(random.Random(0))
    start = time.perf_counter()
    async with Client(server.public) as client:
        response = await client.call("ModelInfer", one.request, pb.ModelInferResponse, timeout=10)
    assert one.is_right(outputs_of(response))
    return 1e3 * (time.perf_counter() - start)
