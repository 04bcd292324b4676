"""Light models, where the server is what costs: against no-op handlers, bare runtimes and peers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from benchmarks.contestants import (
    Bench,
    Contestant,
    DidNotStart,
    bare,
    flags_of,
    has_native,
    hone,
    peer,
    transports,
)
from benchmarks.models import LENET, RESNET18, TINY
from benchmarks.peers.environments import PEERS, Peer
from benchmarks.peers.floors import CPU_MS, expected_share, recorded_share, too_slow
from benchmarks.processes import memory
from benchmarks.raw import Arrangement, runtime
from benchmarks.rows import Part, Row, Table, number, ratios, spread
from benchmarks.runs import Runs

IN_FLIGHT: Final = (1, 8, 32)
MUCH: Final = 32
YARDSTICKS: Final = ("kserve", "mlserver")
_FACTORS: Final = ((TINY, 7, 9), (LENET, 3.5, 5))
_BARE_RUNTIME: Final = "runtime, grpcio"
_ONE_ROW: Final = (Arrangement(1, 1, 1), Arrangement(1, 2, 1), Arrangement(2, 1, 1))
_HEAVY_WINDOWS: Final = 3
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was measured.

    Attributes:
        runs: Windows.
        raw: The raw runtime's best rows a second of resnet18, one for each round.
        absent: Peers that are installed and do not start.
        hone: Name of the contestant that the rows are about.
        transport: Its transport.
    """

    runs: Runs = field(default_factory=Runs)
    raw: list[float] = field(default_factory=list)
    absent: list[Peer] = field(default_factory=list)
    hone: str
    transport: str


def measure(
    bench: Bench, *, in_flight: Sequence[int] = IN_FLIGHT, seconds: float, rounds: int
) -> Part:
    """Every contestant on tiny and lenet; the peers' floors with resnet18 as well."""
    known = transports() or ("grpcio",)
    found = Found(hone=f"hone, {known[0]}", transport=known[0])
    with ExitStack() as stack:
        own = [stack.enter_context(one) for one in _own(bench, known)]
        others = _started(found, bench, stack)
        for model in (TINY, LENET):
            for turn in range(rounds):
                print(f"{model.name}: round {turn + 1} of {rounds}", flush=True)
                for many in in_flight:
                    found.runs.measure([*own, *others], model, many, seconds=seconds, turn=turn)
        if others:
            raw = stack.enter_context(runtime(RESNET18, bench.repository, bench.directory))
            for turn in range(rounds):
                print(f"resnet18, peers: round {turn + 1} of {rounds}", flush=True)
                windows = [raw.window(one, seconds / 2) for one in _ONE_ROW]
                found.raw.append(max(one.rate for one in windows))
                found.runs.measure(
                    others, RESNET18, MUCH, seconds=_HEAVY_WINDOWS * seconds, turn=turn
                )
        resident = _resident([*own, *others])
    note = f"{rounds} windows of {seconds:g} s each (resnet18: {_HEAVY_WINDOWS} times as long)."
    floors = [_floors(found, bench.peers)] if bench.peers else []
    return Part(
        rows=[*_against_peers(found), _against_noop(found), _latency(found)],
        tables=[found.runs.table("Servers under load", note), resident, *floors],
        failures=_failures(found, bench.peers),
    )


def _own(bench: Bench, known: Sequence[str]) -> list[AbstractContextManager[Contestant]]:
    over = ("native", "grpcio") if has_native() else ("grpcio",)
    return [
        *(bare(kind, one, bench) for kind in ("noop", "runtime") for one in over),
        *(hone(bench, *flags_of(one), name=f"hone, {one}", state=f"state-{one}") for one in known),
    ]


def _started(found: Found, bench: Bench, stack: ExitStack) -> list[Contestant]:
    """The peers that start here.

    Raises:
        DidNotStart: One of those that must.
    """
    started = []
    for one in bench.peers:
        try:
            started.append(stack.enter_context(peer(one, bench)))
        except DidNotStart as error:
            if one.is_required:
                raise
            print(f"{one.product} is left out: {str(error).partition(';')[0]}", flush=True)
            found.absent.append(one)
    return started


def _against_peers(found: Found) -> list[Row]:
    rows = []
    for model, least, aim in _FACTORS:
        best = found.runs.best(model.name, YARDSTICKS, MUCH)
        own = found.runs.values(model.name, found.hone, MUCH, lambda one: one.rate)
        theirs = found.runs.values(model.name, best or "", MUCH, lambda one: one.rate)
        rows.append(
            Row(
                figure=f"{model.name}, {MUCH} in flight: requests/s against the better of "
                f"MLServer and KServe{f' ({best})' if best else ''}",
                values=ratios(own, theirs) if best else (),
                least=least,
                aim=aim,
                unit="x",
                high_is_good=True,
                note="" if best else "run `make bench-peers`",
            )
        )
    return rows


def _against_noop(found: Found) -> Row:
    own, noop = (
        found.runs.values("tiny", one, MUCH, lambda one: one.cpu_ms)
        for one in (found.hone, f"noop, {found.transport}")
    )
    return Row(
        figure=f"tiny, {MUCH} in flight: server CPU against the no-op handler of the same "
        f"transport ({found.transport})",
        values=ratios(own, noop),
        least=2,
        aim=1.3,
        unit="x",
    )


def _latency(found: Found) -> Row:
    own, theirs = (
        found.runs.values("tiny", one, 1, lambda one: one.p50_ms) for one in (found.hone, "kserve")
    )
    return Row(
        figure="tiny, 1 in flight: median latency against KServe's",
        values=ratios(own, theirs) if theirs else (),
        least=0.5,
        aim=0.2,
        unit="x",
        note="" if theirs else "run `make bench-peers`",
    )


def _resident(contestants: Sequence[Contestant]) -> Table:
    lines = []
    for one in contestants:
        held = memory(one.process)
        lines.append(
            (one.name, number(one.start_s), number(held.rss / _MIB), number(held.pss / _MIB))
        )
    return Table(
        title="Start and memory, all four models",
        note="Start once, beside the others: to the Ready line, of a peer to right answers of all "
        "models. Memory of the whole process tree after the load above.",
        heads=("server", "start s", "Rss MiB", "Pss MiB"),
        lines=lines,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Share:
    """How well a peer did against raw.

    Attributes:
        peer: Who.
        model: On which model.
        values: One for each round; see `recorded_share`.
        expected: What it should be here.
    """

    peer: Peer
    model: str
    values: Sequence[float]
    expected: float | None


def _shares(found: Found, peers: Sequence[Peer]) -> list[_Share]:
    shares = []
    for other in peers:
        for model in CPU_MS[other.name]:
            theirs, bare = (
                found.runs.values(model, one, MUCH, lambda one: one.cpu_ms)
                for one in (other.name, _BARE_RUNTIME)
            )
            if theirs:
                expected = expected_share(other.name, model, median(bare))
                values = ratios(bare, theirs)
                shares.append(_Share(peer=other, model=model, values=values, expected=expected))
        theirs = found.runs.values(RESNET18.name, other.name, MUCH, lambda one: one.rate)
        if theirs:
            shares.append(
                _Share(
                    peer=other,
                    model=RESNET18.name,
                    values=ratios(theirs, found.raw),
                    expected=recorded_share(other.name, RESNET18.name),
                )
            )
    return shares


def _floors(found: Found, peers: Sequence[Peer]) -> Table:
    return Table(
        title="Peers against the raw runtime",
        note="32 in flight: of light models processor time of onnxruntime behind a bare grpcio "
        "handler over that of the peer, of resnet18 the peer's requests/s over rows/s of "
        "onnxruntime alone (one row a run, best of 1x1, 1x2 and 2x1 lanes x threads). Expected is "
        "what was recorded, or less where the bare handler costs less than where it was: the "
        "peer's own code then weighs more. A run whose share is more than 20 % below fails.",
        heads=("peer", "model", "share", "recorded", "expected"),
        lines=[
            (
                share.peer.product,
                share.model,
                spread(share.values),
                number(recorded_share(share.peer.name, share.model) or 0),
                number(share.expected or 0),
            )
            for share in _shares(found, peers)
        ]
        + [(other.product, "all", "does not start here", "-", "-") for other in found.absent],
    )


def _failures(found: Found, peers: Sequence[Peer]) -> list[str]:
    failures = [
        f"{one.product} is not installed; run `make bench-peers`"
        for one in PEERS
        if one.is_required and one not in peers and peers
    ]
    for share in _shares(found, peers):
        failure = too_slow(share.peer.name, share.model, median(share.values), share.expected)
        if failure:
            failures.append(failure)
    return failures
