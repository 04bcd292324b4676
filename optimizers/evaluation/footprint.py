"""Memory of one session, measured in a process that holds nothing else.

`python -m optimizers.evaluation.footprint MODEL SPEC FEEDS` opens the model, runs it and prints
what the process grew by.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import TypeAdapter

from optimizers.contract.arrays import read_arrays, write_arrays
from optimizers.contract.errors import InvalidModel
from optimizers.contract.evaluation import Estimate, Figure
from optimizers.contract.goal import FigureName
from optimizers.contract.memory import resident_memory
from optimizers.contract.runtime import Feeds, Session, SessionSpec

REPEATS: Final = 5
_RUNS: Final = 20
_TIMEOUT_S: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What one session takes.

    Attributes:
        anonymous_bytes: Private memory after running.
        file_bytes: Mapped files after running.
        peak_bytes: Most resident memory at any time above what the empty process had.
    """

    anonymous_bytes: int
    file_bytes: int
    peak_bytes: int

    @property
    def total_bytes(self) -> int:
        """What is held after running; a saving counts only here."""
        return self.anonymous_bytes + self.file_bytes


def measure_footprint(model: Path, spec: SessionSpec, feeds: Feeds) -> Footprint:
    """Open and run a model in a fresh process.

    Args:
        model: The model file.
        spec: How it is opened.
        feeds: One run's inputs, as large as it will be served.

    Raises:
        InvalidModel: The process failed; the text says what it said.
    """
    with tempfile.TemporaryDirectory() as directory:
        inputs = Path(directory) / "feeds.npz"
        write_arrays(inputs, feeds)
        specification = json.dumps(asdict(spec))
        done = subprocess.run(
            [sys.executable, "-m", __name__, str(model), specification, str(inputs)],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise InvalidModel(f"memory could not be measured: {last}")
    return Footprint(**json.loads(done.stdout))


def memory_figure(original: Sequence[Footprint], variant: Sequence[Footprint]) -> Figure:
    """Memory of both, from repeated measurements taken in turn.

    The bounds are the extremes seen: what a process holds does not scatter like a timing.
    """
    ratios = [b.total_bytes / max(1, a.total_bytes) for a, b in zip(original, variant, strict=True)]
    changes = [b.total_bytes - a.total_bytes for a, b in zip(original, variant, strict=True)]
    return Figure(
        name=FigureName.MEMORY,
        unit="B",
        samples=len(variant),
        value=_extremes([footprint.total_bytes for footprint in variant]),
        original=_extremes([footprint.total_bytes for footprint in original]),
        difference=_extremes(changes),
        ratio=_extremes(ratios),
        method="proportional set size of a fresh process after running, median and extremes",
    )


def describe_footprints(original: Sequence[Footprint], variant: Sequence[Footprint]) -> str:
    """Anonymous, file-backed and peak memory of both, as one sentence."""

    def text(footprints: Sequence[Footprint]) -> str:
        parts = (
            f"{np.median([getattr(one, name) for one in footprints]) / 2**20:.1f} MiB {word}"
            for name, word in (
                ("anonymous_bytes", "anonymous"),
                ("file_bytes", "file-backed"),
                ("peak_bytes", "at the peak"),
            )
        )
        return ", ".join(parts)

    return f"{text(variant)}; original {text(original)}"


def _extremes(values: Sequence[float]) -> Estimate:
    return Estimate(
        value=float(np.median(values)), lower=float(min(values)), upper=float(max(values))
    )


def _measure_here(model: Path, spec: SessionSpec, feeds: Mapping[str, Any]) -> Footprint:
    before = resident_memory()
    peak_before = _peak_bytes()
    session = Session(model, spec)
    for _ in range(_RUNS):
        running = [session.submit(feeds) for _ in range(spec.lanes)]
        for run in running:
            run.result()
    grown = resident_memory().minus(before)
    return Footprint(
        anonymous_bytes=grown.anonymous_bytes,
        file_bytes=grown.file_bytes,
        peak_bytes=max(0, _peak_bytes() - peak_before),
    )


def _peak_bytes() -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


def _main() -> None:
    model, specification, inputs = sys.argv[1:]
    spec = TypeAdapter(SessionSpec).validate_json(specification)
    print(json.dumps(asdict(_measure_here(Path(model), spec, read_arrays(Path(inputs))))))


if __name__ == "__main__":
    _main()
