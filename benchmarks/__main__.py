"""Measures Hone against raw onnxruntime, no-op servers and its peers, interleaved in one run."""

from __future__ import annotations

import argparse
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks import footprint, heavy, light, neighbour, overload
from benchmarks.contestants import Bench, DidNotStart
from benchmarks.load import LoadFailed, require_h2load
from benchmarks.models import MODELS, write_repository
from benchmarks.peers.environments import installed
from benchmarks.report import render
from benchmarks.rows import Part
from optimizers.contract.host import cpu_budget, this_host

_PACKAGES = ("hone-server", "onnxruntime", "grpcio", "pygrpc-native", "uvloop", "numpy")


def main() -> None:
    """Run what was asked for, print the report, and fail where it cannot be trusted.

    Raises:
        SystemExit: h2load is missing, a server is wrong, or a peer is slower than it should be.
    """
    # Otherwise the servers under measurement would outlive whoever is told to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended before the report was complete"))
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a smoke run of about two minutes: numbers mean little, and fail nothing",
    )
    parser.add_argument("--only", nargs="+", choices=_parts(quick=False), help="parts to run")
    parser.add_argument("--no-peers", action="store_true", help="leave installed peers out")
    parser.add_argument("--output", type=Path, help="also write the report to this file")
    options = parser.parse_args()
    require_h2load()
    peers = () if options.no_peers else installed()
    if not peers:
        print("no peers: their rows will be missing; `make bench-peers` installs them", flush=True)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        repository = directory / "models"
        write_repository(repository)
        bench = Bench(
            repository=repository,
            directory=directory,
            answers={model.name: model.answer(repository) for model in MODELS},
            peers=peers,
        )
        parts = [
            run(bench)
            for part, run in _parts(quick=options.quick).items()
            if options.only is None or part in options.only
        ]
    host = this_host(max(1, int(cpu_budget())))
    report = render(
        parts,
        when=time.strftime("%Y-%m-%d", time.gmtime()),
        machine=f"{host.processor}, {host.cpus} processors, {platform.platform()}",
        versions=", ".join([f"CPython {platform.python_version()}", *_versions()]),
        minutes=(time.perf_counter() - start) / 60,
        peers=", ".join(one.product for one in peers) or "none installed; run `make bench-peers`",
        steadiness=str(bench.steadiness),
    )
    print(report)
    if options.output:
        options.output.write_text(report, encoding="utf-8")
    failures = [failure for part in parts for failure in part.failures]
    if failures and not options.quick:
        sys.exit("\n".join(failures))


def _parts(quick: bool) -> dict[str, Callable[[Bench], Part]]:
    """The benchmarks' parts by name, in order; many short rounds: disturbances come and go."""
    some, many = (1, 1) if quick else (9, 24)
    return {
        "light": lambda bench: light.measure(
            bench,
            in_flight=(1, 32) if quick else light.IN_FLIGHT,
            seconds=0.3 if quick else 0.6,
            rounds=1 if quick else 5,
        ),
        "heavy": lambda bench: heavy.measure(bench, seconds=0.6 if quick else 1.0, rounds=many),
        "neighbour": lambda bench: neighbour.measure(
            bench, seconds=1.0 if quick else 4.0, rounds=some
        ),
        "footprint": lambda bench: footprint.measure(
            bench,
            starts=1 if quick else 5,
            idle_s=1.0 if quick else 10.0,
            reloads=5 if quick else 50,
        ),
        "overload": lambda bench: overload.measure(
            bench, seconds=1.0 if quick else 1.5, rounds=2 * some
        ),
    }


def _versions() -> Iterator[str]:
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            yield f"{package} {version(package)}"


if __name__ == "__main__":
    try:
        main()
    except (DidNotStart, LoadFailed) as failure:
        sys.exit(str(failure))
