"""onnxruntime alone, in a process without a server: what there is to get out of a model.

usage: python -m benchmarks.raw MODEL.onnx INPUT.npy

Reads lines `LANES THREADS BATCH SECONDS` and answers each with one line of JSON. Sessions have
onnxruntime's own defaults, but for the number of threads in a run.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.models import Model, file_of


@dataclass(frozen=True, slots=True, order=True)
class Arrangement:
    """How runs share the machine.

    Attributes:
        lanes: Runs at once.
        threads: Inside one run.
        batch: Rows in one run.
    """

    lanes: int
    threads: int
    batch: int

    def __str__(self) -> str:
        return f"{self.lanes}x{self.threads} batch {self.batch}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RawWindow:
    """Rows a second over all lanes, and the median time of a run."""

    rate: float
    p50_ms: float


class Runtime:
    """A process that runs one model as it is told."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def window(self, arrangement: Arrangement, seconds: float) -> RawWindow:
        """Run for `seconds`, back to back in every lane."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        words = (arrangement.lanes, arrangement.threads, arrangement.batch, seconds)
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the raw runtime ended with {self._process.wait()}")
        return RawWindow(**json.loads(line))


@contextmanager
def runtime(model: Model, repository: Path, directory: Path) -> Iterator[Runtime]:
    """The model in a process of its own; `directory` takes its input."""
    rows = directory / f"{model.name}.npy"
    np.save(rows, model.example(8))
    command = [sys.executable, "-m", "benchmarks.raw"]
    with subprocess.Popen(
        [*command, str(file_of(repository, model.name)), str(rows)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Runtime(process)
        finally:
            process.kill()


def main(model: str, rows: str) -> None:
    """Answer lines until there are none."""
    inputs = np.load(rows)
    sessions: dict[int, Any] = {}
    for line in sys.stdin:
        lanes, threads, batch, seconds = line.split()
        if int(threads) not in sessions:
            sessions[int(threads)] = _session(model, int(threads))
        found = _run(sessions[int(threads)], inputs[: int(batch)], int(lanes), float(seconds))
        print(json.dumps(asdict(found)), flush=True)


def _session(model: str, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _run(session: Any, x: Any, lanes: int, seconds: float) -> RawWindow:
    """Each lane's rate is of whole runs, from its first start to its last end."""
    session.run(None, {"x": x})
    over = time.perf_counter() + seconds

    def lane() -> tuple[float, list[float]]:
        start, times = time.perf_counter(), list[float]()
        end = start
        while not times or end < over:
            before = end
            session.run(None, {"x": x})
            end = time.perf_counter()
            times.append(end - before)
        return len(times) * len(x) / (end - start), times

    with ThreadPoolExecutor(lanes) as pool:
        found = [one.result() for one in [pool.submit(lane) for _ in range(lanes)]]
    times = [one for _, lane_times in found for one in lane_times]
    return RawWindow(
        rate=sum(rate for rate, _ in found),
        p50_ms=1e3 * median(times),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
