"""Heavy models, where the runtime is what costs: against the best raw arrangement."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import Final

from benchmarks.contestants import (
    Bench,
    Contestant,
    bare,
    flags_of,
    has_native,
    hone,
    transports,
)
from benchmarks.load import CLIENT_STARTS_S, offered
from benchmarks.models import MINILM, RESNET18, Model
from benchmarks.peers.sessions import CPUS
from benchmarks.raw import Arrangement, Runtime, runtime
from benchmarks.rows import Part, Row, Table, number, ratios, spread
from benchmarks.runs import Runs

MANY: Final = (8, 32)
_LANES_THREADS: Final = tuple(dict.fromkeys(((1, 1), (1, CPUS), (CPUS, 1))))
_SWEEP: Final = tuple(Arrangement(*one, batch) for one in _LANES_THREADS for batch in (1, 4, 8))
_WIDE: Final = Arrangement(1, CPUS, 1)
_FINALISTS: Final = 2
_LOOKS_AT_ONE: Final = 3
"""In each round: what one caller notices of Hone is less than what the machine does to a window. A
bare handler, which shows what of it any server adds, is looked at once."""

_LONGEST_RUN_S: Final = 0.5
_LIMITS: Final = {
    "minilm": {8: (97, 100), 32: (97, 100), 1: (1.0, 0.5)},
    "resnet18": {8: (95, 100), 32: (95, 100), 1: (2.5, 1.2)},
}


def measure(bench: Bench, *, seconds: float, rounds: int) -> Part:
    """Both heavy models, one after the other."""
    transport = (transports() or ("grpcio",))[0]
    parts = []
    with ExitStack() as stack:
        noop = stack.enter_context(bare("noop", transport, bench))
        wide = stack.enter_context(bare("wide", "native" if has_native() else "grpcio", bench))
        server = stack.enter_context(hone(bench, *flags_of(transport)))
        for model in (MINILM, RESNET18):
            with runtime(model, bench.repository, bench.directory) as raw:
                parts.append(_one(model, raw, server, wide, noop, seconds, rounds))
    return Part(
        rows=[row for part in parts for row in part.rows],
        tables=[table for part in parts for table in part.tables],
    )


def _one(
    model: Model,
    raw: Runtime,
    server: Contestant,
    wide: Contestant,
    noop: Contestant,
    seconds: float,
    rounds: int,
) -> Part:
    rate = server.window(model, MANY[0], seconds).rate
    swept = _sweep(model, raw, noop, rate, seconds / 2)
    runs = Runs()
    rates: dict[Arrangement, list[float]] = {one: [] for one in _finalists(swept)}
    beside: dict[str, list[float]] = {wide.name: [], server.name: []}

    def alone(one: Arrangement) -> None:
        rates[one].append(_beside_noop(model, raw, one, noop, rate, seconds))

    def one_caller() -> None:
        """Raw before and after each, so that what drifts meanwhile hits both alike."""
        before = raw.window(_WIDE, seconds / 2).p50_ms
        for one in (wide, *[server] * _LOOKS_AT_ONE):
            runs.measure([one], model, 1, seconds=seconds / 2)
            after = raw.window(_WIDE, seconds / 2).p50_ms
            beside[one.name].append((before + after) / 2)
            before = after

    def added(one: Contestant) -> list[float]:
        own = runs.values(model.name, one.name, 1, lambda found: found.p50_ms)
        return [ms - raw_ms for ms, raw_ms in zip(own, beside[one.name], strict=True)]

    looks: list[Callable[[], None]] = [
        *(partial(alone, one) for one in rates),
        *(partial(runs.measure, [server], model, many, seconds=seconds) for many in MANY),
        one_caller,
    ]
    for turn in range(rounds):
        print(f"{model.name}, against raw: round {turn + 1} of {rounds}", flush=True)
        for look in looks if turn % 2 == 0 else reversed(looks):
            look()
    best = max(rates, key=lambda one: median(rates[one]))
    return Part(
        rows=[
            *(_throughput(model, runs, server.name, n, best, rates[best]) for n in MANY),
            _latency(model, added(server)),
        ],
        tables=[
            _raw_table(model, swept, rates, beside[server.name], added(wide), rate),
            runs.table(
                f"{model.name}: servers",
                f"{rounds} windows of {seconds:g} s each; one caller's are half as long, and "
                f"Hone's {_LOOKS_AT_ONE} times as many, each between two of the raw runtime. "
                f"'{wide.name}' hands each request to a run with {CPUS} threads, and does no more.",
            ),
        ],
    )


def _sweep(
    model: Model, raw: Runtime, noop: Contestant, rate: float, seconds: float
) -> dict[Arrangement, float]:
    print(f"{model.name}: {len(_SWEEP)} raw arrangements", flush=True)
    for one in _SWEEP:  # sessions are open before anything is timed
        raw.window(one, 0.001)
    return {one: _beside_noop(model, raw, one, noop, rate, seconds) for one in _SWEEP}


def _beside_noop(
    model: Model,
    raw: Runtime,
    arrangement: Arrangement,
    noop: Contestant,
    rate: float,
    seconds: float,
) -> float:
    """Rows a second while a no-op server takes the model's requests at `rate`.

    So the raw runtime is measured beside a client and a transport that move as many bytes as
    Hone's do, and what that costs any server is not charged to Hone.
    """
    lasts = CLIENT_STARTS_S + seconds + _LONGEST_RUN_S
    with offered(noop.target(model), lasts, in_flight=MANY[-1], rate=rate):
        time.sleep(CLIENT_STARTS_S)
        return raw.window(arrangement, seconds).rate


def _finalists(swept: dict[Arrangement, float]) -> list[Arrangement]:
    """The best of the sweep, which are measured again: the best of many single looks flatters."""
    return sorted(swept, key=lambda one: swept[one], reverse=True)[:_FINALISTS]


def _throughput(
    model: Model,
    runs: Runs,
    server: str,
    in_flight: int,
    best: Arrangement,
    raw: list[float],
) -> Row:
    own = runs.values(model.name, server, in_flight, lambda one: one.rate)
    least, aim = _LIMITS[model.name][in_flight]
    return Row(
        figure=f"{model.name}, {in_flight} in flight: throughput against the best raw "
        f"arrangement ({best}) beside a no-op server that takes the same bytes",
        values=[100 * one for one in ratios(own, raw)],
        least=least,
        aim=aim,
        unit="%",
        high_is_good=True,
    )


def _latency(model: Model, added: list[float]) -> Row:
    least, aim = _LIMITS[model.name][1]
    return Row(
        figure=f"{model.name}, 1 in flight: median against raw with intra_op = cores ({CPUS})",
        values=added,
        least=least,
        aim=aim,
        unit="ms",
    )


def _raw_table(
    model: Model,
    swept: dict[Arrangement, float],
    rates: dict[Arrangement, list[float]],
    wide: list[float],
    added: list[float],
    rate: float,
) -> Table:
    return Table(
        title=f"{model.name}: onnxruntime alone",
        note=f"Lanes x threads, rows/s, beside a no-op server that takes {number(rate)} "
        f"requests/s; the best {_FINALISTS} measured again in every round. One caller with "
        f"{CPUS} threads, nothing beside it: {spread(wide)} ms; a bare handler before it adds "
        f"{spread(added)} ms.",
        heads=("arrangement", "sweep", "rounds"),
        lines=[
            (str(one), number(swept[one]), spread(rates.get(one, ())))
            for one in sorted(swept, key=lambda one: -swept[one])
        ],
    )
