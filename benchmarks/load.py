"""A closed loop of calls against one server, and what they cost it.

usage: python -m benchmarks.load ADDRESS PROCESS REQUEST IN_FLIGHT SECONDS

Prints one JSON object. CPU is that of the server's process, read from /proc around the window.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

import grpc

WARM_UP_S = 0.3
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def processor_seconds(process: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


async def main(address: str, process: int, content: bytes, in_flight: int, seconds: float) -> None:
    """Keep `in_flight` calls under way for `seconds`."""
    options = [("grpc.max_receive_message_length", 64 << 20)]
    latencies: list[float] = []
    over = False
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=None,
            response_deserializer=None,
        )

        async def caller() -> None:
            while not over:
                start = time.perf_counter()
                await call(content)
                latencies.append(time.perf_counter() - start)

        callers = [asyncio.create_task(caller()) for _ in range(in_flight)]
        await asyncio.sleep(WARM_UP_S)
        latencies.clear()
        before, start = processor_seconds(process), time.perf_counter()
        await asyncio.sleep(seconds)
        elapsed, spent = time.perf_counter() - start, processor_seconds(process) - before
        counted = sorted(latencies)
        over = True
        await asyncio.gather(*callers)
    print(
        json.dumps(
            {
                "calls": len(counted),
                "rate": len(counted) / elapsed,
                "cpu_ms": 1e3 * spent / len(counted),
                "p50_ms": 1e3 * counted[len(counted) // 2],
                "p99_ms": 1e3 * counted[min(len(counted) - 1, int(0.99 * len(counted)))],
            }
        )
    )


if __name__ == "__main__":
    asyncio.run(
        main(
            sys.argv[1],
            int(sys.argv[2]),
            Path(sys.argv[3]).read_bytes(),
            int(sys.argv[4]),
            float(sys.argv[5]),
        )
    )
