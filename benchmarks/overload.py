"""Three times as many requests as the server can answer, each with a deadline."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

import grpc

from benchmarks.contestants import Bench, Contestant, flags_of, hone, transports
from benchmarks.load import SERVICE, percentile
from benchmarks.models import MINILM
from benchmarks.rows import Part, Row, Table, number, ratios, spread

DEADLINE_S: Final = 1.0
FACTOR: Final = 3
_SETTLE_S: Final = 1.0
_FULL: Final = 16
_EARLY: Final = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Storm:
    """What came back.

    Attributes:
        goodput: Right answers within their deadline, a second.
        p99_ms: Of what was accepted, from when it was due to be sent. Whoever was not told early
            that he is refused was accepted, and counts with the time he waited in vain.
        codes: Status → requests.
    """

    goodput: float
    p99_ms: float
    codes: Counter[str]


def measure(bench: Bench, *, seconds: float, rounds: int) -> Part:
    """minilm, whose requests are small, so that the client costs little."""
    capacities, full, storms = [], [], []
    with hone(bench, *flags_of((transports() or ("grpcio",))[0])) as server:
        for turn in range(rounds):
            print(f"overload: round {turn + 1} of {rounds}", flush=True)
            window = server.window(MINILM, _FULL, seconds)
            capacities.append(window.rate)
            full.append(window.p99_ms)
            storms.append(asyncio.run(_storm(server, FACTOR * window.rate, 2 * seconds)))
            server.check(MINILM)
    goodput = [100 * one for one in ratios([one.goodput for one in storms], capacities)]
    p99 = [one.p99_ms for one in storms]
    codes = sum((one.codes for one in storms), Counter[str]())
    return Part(
        rows=[
            Row(
                figure=f"minilm at {FACTOR} times capacity: answers within their deadline of "
                f"{DEADLINE_S:g} s, against capacity",
                values=goodput,
                least=90,
                aim=100,
                unit="%",
                high_is_good=True,
            ),
            Row(
                figure=f"minilm at {FACTOR} times capacity: p99 of accepted requests against "
                "their deadline",
                values=[one / (1e3 * DEADLINE_S) for one in p99],
                least=1,
                aim=1,
                unit="x",
            ),
        ],
        tables=[
            Table(
                title="Overload",
                note=f"minilm, open loop (a Python client), every request with a deadline of "
                f"{DEADLINE_S:g} s; capacity is a closed loop of {_FULL} (h2load).",
                heads=("what", "measured"),
                lines=[
                    ("capacity, requests/s", spread(capacities)),
                    ("p99 at capacity, ms", spread(full)),
                    ("answers within the deadline, a second", spread([s.goodput for s in storms])),
                    ("p99 of accepted requests, ms", spread(p99)),
                    ("what came back", ", ".join(f"{n} {number(c)}" for n, c in codes.items())),
                ],
            )
        ],
    )


async def _storm(server: Contestant, rate: float, seconds: float) -> Storm:
    """Send at `rate`, whatever comes back; the first second does not count."""
    content = MINILM.request().SerializeToString()
    answered: list[float] = []
    accepted: list[tuple[float, float]] = []
    codes: Counter[str] = Counter()
    async with grpc.aio.insecure_channel(server.address) as channel:
        untyped: Any = channel
        call = untyped.unary_unary(SERVICE)
        start = time.perf_counter()

        async def one(due: float) -> None:
            try:
                await call(content, timeout=DEADLINE_S)
            except grpc.aio.AioRpcError as error:
                codes[error.code().name] += 1
                if (taken := time.perf_counter() - due) >= _EARLY * DEADLINE_S:
                    accepted.append((due - start, taken))
            else:
                codes["OK"] += 1
                answered.append(time.perf_counter() - start)
                accepted.append((due - start, time.perf_counter() - due))

        calls = []
        for index in range(int(rate * seconds)):
            due = start + index / rate
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            calls.append(asyncio.create_task(one(due)))
        await asyncio.gather(*calls)
    taken = [taken for due, taken in accepted if due >= _SETTLE_S]
    return Storm(
        goodput=sum(_SETTLE_S <= end < seconds for end in answered) / (seconds - _SETTLE_S),
        p99_ms=1e3 * percentile(taken, 0.99),
        codes=codes,
    )
