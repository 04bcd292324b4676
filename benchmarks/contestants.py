"""The servers that are measured: how each is started, asked and checked."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.load import SERVICE, Target, Window, closed_loop, grpc_body
from benchmarks.models import MODELS, Array, Model
from benchmarks.peers.environments import Peer
from benchmarks.processes import free_port, is_alive, running
from benchmarks.steadiness import Steadiness
from server.client import CallFailed, Client
from server.pb import open_inference_pb2 as inference

START_S: Final = 90
_READY = re.compile(r"^Ready grpc=(\S+)(?: metrics=(\S+) admin=(\S+))?", re.MULTILINE)


class DidNotStart(Exception):
    """A server did not start, or not to answer rightly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What every part of the benchmarks works on.

    Attributes:
        repository: The four models.
        directory: Scratch space.
        answers: Model name → the raw runtime's answer to its request.
        peers: Those that take part.
        steadiness: Of the machine, looked at before each window.
    """

    repository: Path
    directory: Path
    answers: dict[str, Array]
    peers: Sequence[Peer]
    steadiness: Steadiness = field(default_factory=Steadiness)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """A server that serves.

    Attributes:
        name: In the tables.
        process: Root of its process tree.
        address: HOST:PORT.
        admin: Of Hone's admin endpoint; empty for others.
        start_s: From its start to its Ready line, of Hone with every model ready; of a peer, to
            right answers of all models.
        is_grpc: Otherwise HTTP/1.1, as LitServe speaks.
        fixed: Whether it answers the same to everything.
        bench: What it serves.
    """

    name: str
    process: int
    address: str
    bench: Bench
    admin: str = ""
    start_s: float = 0.0
    is_grpc: bool = True
    fixed: bool = False

    def check(self, model: Model) -> int:
        """Ask as a client does and compare with the raw runtime; the answer's length on the wire.

        Raises:
            SystemExit: It answers something else.
            CallFailed: It refuses.
            OSError: It cannot be reached.
        """
        if not self.is_grpc:
            return self._check_http(model)
        response = asyncio.run(_ask(self.address, model))
        found = np.frombuffer(response.raw_output_contents[0], np.float32)
        self._compare(model, found)
        return len(grpc_body(response.SerializeToString()))

    def window(self, model: Model, in_flight: int, seconds: float) -> Window:
        """One window of load, its answers checked before and after."""
        target = self.target(model)
        self.bench.steadiness.look()
        warm_up_s = 0.5 if model.is_heavy else 0.3
        found = closed_loop(target, self.process, in_flight, warm_up_s=warm_up_s, seconds=seconds)
        self.check(model)
        return found

    def target(self, model: Model) -> Target:
        """What h2load posts, after a check."""
        size = self.check(model)
        if not self.is_grpc:
            return Target(
                url=f"http://{self.address}/{model.name}",
                body=_written(self.bench, f"{model.name}.json", _json_body(model)),
                answer_bytes=size,
                is_grpc=False,
            )
        return Target(
            url=f"http://{self.address}{SERVICE}",
            body=_written(
                self.bench, f"{model.name}.grpc", grpc_body(model.request().SerializeToString())
            ),
            answer_bytes=size,
        )

    def _check_http(self, model: Model) -> int:
        request = urllib.request.Request(
            f"http://{self.address}/{model.name}",
            _json_body(model),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            content: bytes = answer.read()
        self._compare(model, np.frombuffer(base64.b64decode(json.loads(content)["y"]), np.float32))
        return len(content)

    def _compare(self, model: Model, found: Array) -> None:
        expected = np.zeros(10) if self.fixed else self.bench.answers[model.name].ravel()
        if found.shape != expected.shape or not np.allclose(found, expected, 1e-3, 1e-4):
            raise SystemExit(f"{self.name} and the raw runtime do not agree on {model.name}")


@contextmanager
def bare(kind: str, transport: str, bench: Bench) -> Iterator[Contestant]:
    """`noop`, `runtime` or `wide` of `benchmarks.bare`."""
    name = f"{kind}, {transport}"
    command = [sys.executable, "-m", "benchmarks.bare", kind, transport, str(bench.repository)]
    with _announced(name, command, bench, fixed=kind == "noop") as contestant:
        yield contestant


@contextmanager
def hone(
    bench: Bench,
    *flags: str,
    name: str = "hone",
    repository: Path | None = None,
    state: str = "state",
    models: Sequence[Model] = MODELS,
) -> Iterator[Contestant]:
    """`hone serve` as installed, every port any free one."""
    served = str(repository or bench.repository)
    command = [sys.executable, "-m", "server", "serve", served]
    ports = ["--grpc-port", "0", "--metrics-port", "0", "--admin-port", "0"]
    kept = ["--state", str(bench.directory / state)]
    with _announced(name, [*command, *kept, *ports, *flags], bench, models=models) as contestant:
        yield contestant


@contextmanager
def peer(one: Peer, bench: Bench) -> Iterator[Contestant]:
    """A peer from its own environment."""
    port, other = free_port(), free_port()
    ports = [str(port), str(other)] if one.is_grpc else [str(port)]
    log = bench.directory / f"{one.name}.log"
    start = time.perf_counter()
    with running([*one.command, str(bench.repository), *ports], log, bench.directory) as process:
        contestant = Contestant(
            name=one.name,
            process=process,
            address=f"127.0.0.1:{port}",
            bench=bench,
            is_grpc=one.is_grpc,
        )
        _await_answers(contestant, MODELS, log)
        yield replace(contestant, start_s=time.perf_counter() - start)


@cache
def transports() -> tuple[str, ...]:
    """Transports that `hone serve` can be told to use, the one it prefers first."""
    if not has_native():
        return ()
    command = [sys.executable, "-m", "server", "serve", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return ("native", "grpcio") if "--transport" in text else ()


def has_native() -> bool:
    """Whether the native transport is installed."""
    return importlib.util.find_spec("pygrpc_native") is not None


def flags_of(transport: str) -> tuple[str, ...]:
    """Flags of `hone serve` for a transport; none where it knows only one."""
    return ("--transport", transport) if transports() else ()


@contextmanager
def _announced(
    name: str,
    command: list[str],
    bench: Bench,
    *,
    fixed: bool = False,
    models: Sequence[Model] = MODELS,
) -> Iterator[Contestant]:
    log = bench.directory / f"{name.replace(', ', '-')}.log"
    start = time.perf_counter()
    with running(command, log) as process:
        address, admin = _ready_line(name, process, log, start)
        contestant = Contestant(
            name=name, process=process, address=address, admin=admin, bench=bench, fixed=fixed
        )
        taken = time.perf_counter() - start
        if admin and not asyncio.run(_are_ready(address, models)):
            while not asyncio.run(_are_ready(address, models)):
                if time.perf_counter() - start > START_S:
                    raise DidNotStart(f"{name} says Ready and its models are not")
            taken = time.perf_counter() - start
        _await_answers(contestant, models, log)
        yield replace(contestant, start_s=taken)


def _ready_line(name: str, process: int, log: Path, start: float) -> tuple[str, str]:
    while (match := _READY.search(log.read_text(errors="replace"))) is None:
        if not is_alive(process) or time.perf_counter() - start > START_S:
            raise DidNotStart(f"{name} did not start; it said:\n{log.read_text()[-2000:]}")
        time.sleep(0.005)
    return match[1], match[3] or ""


def _await_answers(contestant: Contestant, models: Sequence[Model], log: Path) -> None:
    over = time.perf_counter() + START_S
    for model in models:
        while True:
            try:
                contestant.check(model)
                break
            except (CallFailed, OSError) as error:
                if not is_alive(contestant.process) or time.perf_counter() > over:
                    text = log.read_text(errors="replace")[-2000:]
                    raise DidNotStart(
                        f"{contestant.name} does not answer for {model.name} ({error}); "
                        f"it said:\n{text}"
                    ) from error
                time.sleep(0.1)


async def _are_ready(address: str, models: Sequence[Model]) -> bool:
    async with Client(address) as client:
        for model in models:
            request = inference.ModelReadyRequest(name=model.name)
            answer = await client.call("ModelReady", request, inference.ModelReadyResponse)
            if not answer.ready:
                return False
    return True


async def _ask(address: str, model: Model) -> inference.ModelInferResponse:
    async with Client(address) as client:
        return await client.call(
            "ModelInfer", model.request(), inference.ModelInferResponse, timeout=30
        )


def _json_body(model: Model) -> bytes:
    return json.dumps({"x": base64.b64encode(model.example(1).tobytes()).decode()}).encode()


def _written(bench: Bench, name: str, content: bytes) -> Path:
    path = bench.directory / name
    if not path.exists():
        path.write_bytes(content)
    return path
