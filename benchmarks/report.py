"""Turns runs into a page: ratios first, every number with its spread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

HEADER = """\
# Benchmarks

Written by `make bench` on {when}; {machine}; {versions}.
{rounds} windows of {seconds:g} s per figure, contestants interleaved, the median and in brackets
the smallest and largest window. The client is a Python grpc.aio process on the same machine, so
requests per second are bounded by it; server CPU per request is not. Weights are random, shapes are
real: tiny 64-64-10 perceptron, lenet 3x32x32, resnet18 3x224x224, minilm 6x384 over 128 tokens.

- noop: a bare grpc.aio handler that answers a fixed message and reads nothing
- runtime: onnxruntime behind the same bare handler, the session arrangement that Hone uses
- hone: `hone serve`, as installed
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One window.

    Attributes:
        calls: Answers counted.
        rate: Answers a second.
        cpu_ms: The server's processor time per answer.
        p50_ms: Median latency.
        p99_ms: 99th percentile.
    """

    calls: int
    rate: float
    cpu_ms: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A window and what it was of."""

    model: str
    server: str
    in_flight: int
    found: Measurement


Quantity = Callable[[Measurement], float]


def render(
    runs: Sequence[Run],
    *,
    machine: str,
    versions: str,
    when: str,
    seconds: float,
    rounds: int,
    heavy: Sequence[str],
) -> str:
    """The report as Markdown."""
    lines = [
        HEADER.format(
            when=when, machine=machine, versions=versions, rounds=rounds, seconds=seconds
        ),
        "## Targets",
        "",
        "| model | what | measured | target | |",
        "|---|---|---|---|---|",
        *_targets(runs, heavy),
        "",
        "## Figures",
        "",
        "| model | in flight | server | CPU ms/request | requests/s | p50 ms | p99 ms |",
        "|---|---|---|---|---|---|---|",
        *_figures(runs),
    ]
    return "\n".join(lines) + "\n"


def _targets(runs: Sequence[Run], heavy: Sequence[str]) -> list[str]:
    lines = []
    models = list(dict.fromkeys(run.model for run in runs))
    if "tiny" in models:
        ratios = _ratios(runs, "tiny", 32, "noop", lambda found: found.cpu_ms)
        lines.append(
            _target("tiny", "server CPU per request, 32 in flight, hone / noop", ratios, 1.5, True)
        )
    for model in models:
        if model not in heavy:
            continue
        ratios = _ratios(runs, model, 8, "runtime", lambda found: found.rate)
        what = "requests per second, 8 in flight, hone / runtime"
        lines.append(_target(model, what, ratios, 0.95, False))
        hone = _values(runs, model, 1, "hone", lambda found: found.p50_ms)
        raw = _values(runs, model, 1, "runtime", lambda found: found.p50_ms)
        apart = [one - other for one, other in zip(hone, raw, strict=True)]
        what = "median latency of one caller, hone - runtime, ms"
        lines.append(_target(model, what, apart, 2.0, True))
    return lines


def _target(model: str, what: str, values: Sequence[float], limit: float, at_most: bool) -> str:
    middle = median(values)
    met = middle <= limit if at_most else middle >= limit
    sign = "at most" if at_most else "at least"
    word = "met" if met else "**missed**"
    return f"| {model} | {what} | {_spread(values)} | {sign} {limit:g} | {word} |"


def _figures(runs: Sequence[Run]) -> list[str]:
    keys = dict.fromkeys((run.model, run.in_flight, run.server) for run in runs)
    quantities: tuple[Quantity, ...] = (
        lambda found: found.cpu_ms,
        lambda found: found.rate,
        lambda found: found.p50_ms,
        lambda found: found.p99_ms,
    )
    return [
        f"| {model} | {in_flight} | {server} | "
        + " | ".join(_spread(_values(runs, model, in_flight, server, one)) for one in quantities)
        + " |"
        for model, in_flight, server in keys
    ]


def _ratios(
    runs: Sequence[Run], model: str, in_flight: int, against: str, quantity: Quantity
) -> list[float]:
    """Window by window, Hone's quantity divided by another's."""
    hone = _values(runs, model, in_flight, "hone", quantity)
    other = _values(runs, model, in_flight, against, quantity)
    return [one / two for one, two in zip(hone, other, strict=True)]


def _values(
    runs: Sequence[Run], model: str, in_flight: int, server: str, quantity: Quantity
) -> list[float]:
    return [
        quantity(run.found)
        for run in runs
        if (run.model, run.in_flight, run.server) == (model, in_flight, server)
    ]


def _spread(values: Sequence[float]) -> str:
    return f"{median(values):.3g} [{min(values):.3g}, {max(values):.3g}]"
