"""Measures Hone against the raw runtime and a bare gRPC handler, interleaved in one run."""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmarks.networks import NETWORKS, Network, write_repository
from benchmarks.report import Measurement, Run, render
from optimizers.contract.host import cpu_budget, this_host
from server.client import inference_request

IN_FLIGHT = (1, 8, 32)
READY = re.compile(r"Ready grpc=(\S+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """A server under load."""

    name: str
    address: str
    process: int


@contextmanager
def started(name: str, command: list[str]) -> Iterator[Contestant]:
    """Start a server and wait for its Ready line."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        match = READY.match(process.stdout.readline())
        if match is None:
            raise SystemExit(f"{name} did not start: {' '.join(command)}")
        yield Contestant(name=name, address=match[1], process=process.pid)
    finally:
        process.terminate()
        process.wait(60)


def load(contestant: Contestant, request: Path, in_flight: int, seconds: float) -> Measurement:
    """One window of load from a process of its own."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.load", contestant.address),
            *(str(contestant.process), str(request), str(in_flight), str(seconds)),
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Measurement(**json.loads(done.stdout))


def measure(
    network: Network, contestants: dict[str, Contestant], work: Path, seconds: float, rounds: int
) -> list[Run]:
    """Every contestant in turn, in an order that changes with every round."""
    runs = []
    for name in contestants:
        request = inference_request(
            "noop" if name == "noop" else network.name, {"x": network.example(1)}
        )
        (work / f"{name}.bin").write_bytes(request.SerializeToString())
    for in_flight in IN_FLIGHT:
        for turn in range(rounds):
            names = list(contestants)
            for name in names if turn % 2 == 0 else reversed(names):
                found = load(contestants[name], work / f"{name}.bin", in_flight, seconds)
                runs.append(Run(model=network.name, server=name, in_flight=in_flight, found=found))
            print(
                f"{network.name}, {in_flight} in flight: round {turn + 1} of {rounds}", flush=True
            )
    return runs


def check_answers(network: Network, contestants: dict[str, Contestant]) -> None:
    """Hone and the raw runtime must give the same numbers before their speed is compared."""
    import asyncio

    from server.client import Client

    async def ask(address: str) -> np.ndarray:
        async with Client(address) as client:
            answers, _ = await client.infer(network.name, {"x": network.example(3)})
        return answers["y"]

    one = asyncio.run(ask(contestants["hone"].address))
    other = asyncio.run(ask(contestants["runtime"].address))
    if not np.allclose(one, other, rtol=1e-3, atol=1e-4):
        raise SystemExit(f"{network.name}: Hone and the raw runtime do not agree")


def main() -> None:
    """Run everything and print the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = [network.name for network in NETWORKS]
    parser.add_argument("--models", nargs="+", choices=names, default=names)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one window")
    parser.add_argument("--rounds", type=int, default=5, help="windows per contestant and load")
    parser.add_argument("--output", type=Path, help="also write the report to this file")
    options = parser.parse_args()
    networks = tuple(network for network in NETWORKS if network.name in options.models)
    host = this_host(max(1, int(cpu_budget())))
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_repository(work / "models", networks)
        ports = ("--grpc-port", "0", "--metrics-port", "0", "--admin-port", "0")
        serve = ["-m", "server", "serve", str(work / "models"), "--state", str(work / "state")]
        bare = ["-m", "benchmarks.bare", str(work / "models"), "1", str(host.cpus)]
        contestants = {
            name: stack.enter_context(started(name, [sys.executable, *command]))
            for name, command in (
                ("noop", bare),
                ("runtime", bare),
                ("hone", [*serve, *ports]),
            )
        }
        runs = []
        for network in networks:
            check_answers(network, contestants)
            runs += measure(network, contestants, work, options.seconds, options.rounds)
    report = render(
        runs,
        machine=f"{host.processor}, {host.cpus} processors, {platform.platform()}",
        versions=", ".join(
            f"{name} {version(name)}" for name in ("hone-server", "onnxruntime", "grpcio")
        ),
        when=time.strftime("%Y-%m-%d", time.gmtime()),
        seconds=options.seconds,
        rounds=options.rounds,
        heavy=[network.name for network in networks if network.is_heavy],
    )
    print(report)
    if options.output:
        options.output.write_text(report, encoding="utf-8")


main()
