"""The load client: h2load, a C program that costs a fraction of what the servers cost.

It posts one file again and again and keeps so many streams in flight on one connection, as one
gRPC channel does. It looks at no answer, so `contestants` checks answers before and after every
window, and a window whose answers are shorter than they should be is refused here.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.processes import processor_seconds

SERVICE: Final = "/inference.GRPCInferenceService/ModelInfer"
CLIENT_STARTS_S: Final = 0.2
"""Until h2load's first request is under way, at most."""

_HTTP_OK: Final = 200
_DATA = re.compile(r"^traffic:.*\((\d+)\) data$", re.MULTILINE)
_DONE = re.compile(r"^requests: .* (\d+) done, (\d+) succeeded", re.MULTILINE)


class LoadFailed(Exception):
    """h2load or the server under it did not do what it should."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is posted where.

    Attributes:
        url: Whole address.
        body: File with the request's bytes.
        answer_bytes: Length of a right answer on the wire.
        is_grpc: Otherwise HTTP/1.1 with one connection for each request in flight.
    """

    url: str
    body: Path
    answer_bytes: int
    is_grpc: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One line of h2load's log: seconds since the epoch, seconds taken, HTTP status."""

    start_s: float
    latency_s: float
    status: int

    @property
    def end_s(self) -> float:
        """When its last byte had come."""
        return self.start_s + self.latency_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What one window of load showed.

    Attributes:
        answers: How many came in it.
        rate: Answers a second.
        cpu_ms: Processor time of the server's whole process tree per answer.
        p50_ms: Median latency.
        p99_ms: 99th percentile.
    """

    answers: int
    rate: float
    cpu_ms: float
    p50_ms: float
    p99_ms: float


def require_h2load() -> None:
    """Install it where that is possible.

    Raises:
        SystemExit: It is missing and cannot be installed here.
    """
    if shutil.which("h2load"):
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print("installing h2load (Debian package nghttp2-client)", flush=True)
        subprocess.run(["apt-get", "update", "-qq"], check=False)
        subprocess.run(["apt-get", "install", "-y", "-qq", "nghttp2-client"], check=False)
    if not shutil.which("h2load"):
        raise SystemExit(
            "h2load is needed and missing; install it: apt-get install nghttp2-client "
            "(Debian, Ubuntu), or the package of nghttp2's tools of your distribution"
        )


def grpc_body(content: bytes) -> bytes:
    """A message as gRPC frames it: not compressed, length, content."""
    return b"\0" + len(content).to_bytes(4, "big") + content


def closed_loop(
    target: Target, process: int, in_flight: int, *, warm_up_s: float, seconds: float
) -> Window:
    """Keep `in_flight` requests under way and look at `seconds` of it, after a warm-up.

    Raises:
        LoadFailed: Requests failed, or answers were not what they should be.
    """
    lasts = warm_up_s + seconds + CLIENT_STARTS_S
    with offered(target, lasts, in_flight=in_flight) as load:
        time.sleep(warm_up_s)
        cpu, start = processor_seconds(process), time.time()
        time.sleep(seconds)
        cpu, end = processor_seconds(process) - cpu, time.time()
    found = [one for one in load.answers if start <= one.end_s < end]
    if not found:
        raise LoadFailed(f"{target.url} answered nothing within {seconds:g} s")
    latencies = [one.latency_s for one in found]
    return Window(
        answers=len(found),
        rate=len(found) / (end - start),
        cpu_ms=1e3 * cpu / len(found),
        p50_ms=1e3 * percentile(latencies, 0.50),
        p99_ms=1e3 * percentile(latencies, 0.99),
    )


class Offered:
    """Load that is being offered; what it showed is there once its block is left.

    Attributes:
        answers: All of them, refusals too.
        right: How many brought what a right answer brings.
    """

    answers: tuple[Answer, ...] = ()
    right: int = 0


@contextmanager
def offered(
    target: Target,
    seconds: float,
    *,
    in_flight: int,
    rate: float | None = None,
    deadline_s: float | None = None,
) -> Iterator[Offered]:
    """Offer load while the block runs; leaving it waits until `seconds` are over.

    A client with threads of its own will not do beside a busy server: where the kernel does not
    preempt, every hand-over between them waits for milliseconds, and answers seem to be late.

    Args:
        target: Where to.
        seconds: How long h2load runs.
        in_flight: Most requests under way.
        rate: Requests a second, those of every 10 ms together; None for as many as `in_flight`
            allow.
        deadline_s: Each request's gRPC deadline; with one, refusals are no failure.

    Raises:
        LoadFailed: Requests failed, or answers were not what they should be.
    """
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "log"
        process = subprocess.Popen(
            _command(target, seconds, in_flight, rate, log, deadline_s),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        load = Offered()
        try:
            yield load
            text, _ = process.communicate(timeout=seconds + 30)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        load.answers = _logged(log)
    if deadline_s is None:
        check_summary(text, target)
    data = _DATA.search(text)
    if data is None or not load.answers or any(one.status != _HTTP_OK for one in load.answers):
        raise LoadFailed(f"h2load said of {target.url}: {text[-500:]}")
    load.right = int(data[1]) // target.answer_bytes


def check_summary(text: str, target: Target) -> None:
    """Refuse a run with failures or with answers too short to be right.

    A refused gRPC call is HTTP status 200 without a body, so the bytes tell.

    Raises:
        LoadFailed: As said.
    """
    done, data = _DONE.search(text), _DATA.search(text)
    if done is None or data is None:
        raise LoadFailed(f"h2load said nothing of {target.url}: {text[-500:]}")
    answers, succeeded, size = int(done[1]), int(done[2]), int(data[1])
    if answers == 0 or succeeded < answers:
        raise LoadFailed(f"{target.url}: {succeeded} of {answers} requests succeeded")
    if size < 0.99 * answers * target.answer_bytes:
        raise LoadFailed(
            f"{target.url}: {size} bytes in {answers} answers, expected {target.answer_bytes} in "
            "each; the server refused some of them"
        )


def _logged(log: Path) -> tuple[Answer, ...]:
    """None where h2load ended before it wrote any."""
    return read_log(log.read_text()) if log.exists() else ()


def read_log(text: str) -> tuple[Answer, ...]:
    """h2load's log: microseconds since the epoch, status, microseconds taken; one answer a line."""
    answers = []
    for line in text.splitlines():
        start, status, taken = line.split("\t")[:3]
        answers.append(
            Answer(start_s=int(start) / 1e6, latency_s=int(taken) / 1e6, status=int(status))
        )
    return tuple(answers)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed, by rank."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _command(
    target: Target,
    seconds: float,
    in_flight: int,
    rate: float | None,
    log: Path,
    deadline_s: float | None = None,
) -> list[str]:
    connections = 1 if target.is_grpc else in_flight
    headers = (
        ["-H", "content-type: application/grpc", "-H", "te: trailers"]
        if target.is_grpc
        else ["--h1", "-H", "content-type: application/json"]
    )
    return [
        *("h2load", "-D", f"{round(seconds * 1000)}ms", f"--log-file={log}"),
        *("-d", str(target.body)),
        *("-c", str(connections), "-m", str(in_flight // connections), *headers),
        *([f"--rps={rate:.4f}"] if rate else []),
        *(["-H", f"grpc-timeout: {round(1e3 * deadline_s)}m"] if deadline_s else []),
        target.url,
    ]
