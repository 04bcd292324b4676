"""Three times as many requests as the server can answer, each with a deadline."""

from __future__ import annotations

import math
from typing import Final

from benchmarks.contestants import Bench, Contestant, flags_of, hone, transports
from benchmarks.load import offered, percentile
from benchmarks.models import MINILM
from benchmarks.rows import Part, Row, Table, ratios, spread

DEADLINE_S: Final = 1.0
FACTOR: Final = 3
_FULL: Final = 16
_SOON: Final = 0.1


def measure(bench: Bench, *, seconds: float, rounds: int) -> Part:
    """minilm, whose requests are small, so that the client costs little."""
    capacities, full, storms = [], [], []
    with hone(bench, *flags_of((transports() or ("grpcio",))[0])) as server:
        for turn in range(rounds):
            print(f"overload: round {turn + 1} of {rounds}", flush=True)
            window = server.window(MINILM, _FULL, seconds)
            capacities.append(window.rate)
            full.append(window.p99_ms)
            storms.append(_storm(server, FACTOR * window.rate, 2 * seconds))
            server.check(MINILM)
    answers, p99, refused = zip(*storms, strict=True)
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
                f"capacity is a closed loop of {_FULL}.",
                heads=("what", "measured"),
                lines=[
                    ("capacity, requests/s", spread(capacities)),
                    ("p99 at capacity, ms", spread(full)),
                    ("answers within the deadline, a second", spread(answers)),
                    ("p99 of accepted requests, ms", spread(p99)),
                    ("refused, %", spread([100 * one for one in refused])),
                ],
            )
        ],
    )


def _storm(server: Contestant, rate: float, seconds: float) -> tuple[float, float, float]:
    """Right answers within their deadline a second, p99 of the accepted in ms, share refused.

    Of a refusal h2load tells only that it brought nothing. Whoever was not answered soon was
    accepted, and counts with the time he waited, even in vain; late answers are not right.
    """
    target, most = server.target(MINILM), math.ceil(2 * rate * DEADLINE_S)
    with offered(target, seconds, in_flight=most, rate=rate, deadline_s=DEADLINE_S) as storm:
        pass
    taken = [one.latency_s for one in storm.answers]
    late = sum(one > DEADLINE_S for one in taken)
    accepted = [one for one in taken if one > _SOON * DEADLINE_S]
    refused = 1 - storm.right / len(taken)
    return max(0, storm.right - late) / seconds, 1e3 * percentile(accepted, 0.99), refused
