"""Three times as many requests as the server can answer, each with a deadline."""

from __future__ import annotations

import math
import time
from itertools import pairwise
from statistics import mean
from typing import Final

from benchmarks.contestants import Bench, Contestant, flags_of, hone, transports
from benchmarks.load import CLIENT_STARTS_S, offered, percentile
from benchmarks.models import MINILM
from benchmarks.rows import Part, Row, Table, ratios, spread

DEADLINE_S: Final = 1.0
FACTOR: Final = 3
_FULL: Final = 16
_SOON: Final = 0.1
_WARM_UP_S: Final = 1.0
"""As long as the deadline: then as many wait as ever will."""


def measure(bench: Bench, *, seconds: float, rounds: int) -> Part:
    """minilm, whose requests are small, so that the client costs little."""
    storms = []
    with hone(bench, *flags_of((transports() or ("grpcio",))[0])) as server:
        full = [server.window(MINILM, _FULL, seconds)]
        for turn in range(rounds):
            print(f"overload: round {turn + 1} of {rounds}", flush=True)
            storms.append(_storm(server, FACTOR * full[-1].rate, 2 * seconds))
            server.check(MINILM)
            full.append(server.window(MINILM, _FULL, seconds))
    answers, p99, refused = zip(*storms, strict=True)
    # What drifts meanwhile hits both alike.
    capacities = [mean((one.rate, other.rate)) for one, other in pairwise(full)]
    goodput = [100 * one for one in ratios(answers, capacities)]
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
                note=f"minilm, open loop, every request with a deadline of {DEADLINE_S:g} s; "
                f"capacity is a closed loop of {_FULL}, before and after it.",
                heads=("what", "measured"),
                lines=[
                    ("capacity, requests/s", spread([one.rate for one in full])),
                    ("p99 at capacity, ms", spread([one.p99_ms for one in full])),
                    ("answers within the deadline, a second", spread(answers)),
                    ("p99 of accepted requests, ms", spread(p99)),
                    ("refused, %", spread([100 * one for one in refused])),
                ],
            )
        ],
    )


def _storm(server: Contestant, rate: float, seconds: float) -> tuple[float, float, float]:
    """Answers within their deadline a second, p99 of the accepted in ms, share refused.

    Looked at is what came in `seconds`, after a warm-up. Of a refusal h2load tells only that it
    brought nothing. Whoever was not answered soon was accepted, and counts with the time he waited,
    even in vain; no more of them count as answered than were.
    """
    target, most = server.target(MINILM), math.ceil(2 * rate * DEADLINE_S)
    lasts = _WARM_UP_S + seconds + CLIENT_STARTS_S
    with offered(target, lasts, in_flight=most, rate=rate, deadline_s=DEADLINE_S) as storm:
        time.sleep(CLIENT_STARTS_S + _WARM_UP_S)
        start = time.time()
        time.sleep(seconds)
        end = time.time()
    accepted = [one for one in storm.answers if one.latency_s > _SOON * DEADLINE_S]
    in_time = [one for one in accepted if one.latency_s <= DEADLINE_S]
    right = min(1.0, storm.right / max(1, len(in_time)))
    came = sum(start <= one.end_s < end for one in in_time)
    refused = 1 - storm.right / len(storm.answers)
    p99_s = percentile([one.latency_s for one in accepted], 0.99)
    return right * came / (end - start), 1e3 * p99_s, refused
