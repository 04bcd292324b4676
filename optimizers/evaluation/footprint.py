"""Memory of one session, measured in a process that holds nothing else.

`python -m optimizers.evaluation.footprint MODEL SPEC FEEDS` opens the model, runs it and prints
what the process grew by.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter

from optimizers.contract.arrays import read_arrays, write_arrays
from optimizers.contract.errors import InvalidModel, OutOfMemory
from optimizers.contract.memory import resident_memory
from optimizers.contract.runtime import Feeds, Session, SessionSpec
from optimizers.process import PARENT_VARIABLE, die_with_parent

_RUNS: Final = 20
_TIMEOUT_S: Final = 300
_LACKS_MEMORY: Final = 3
"""How the process exits that could not get what it needs."""


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
        OutOfMemory: The process got too little.
    """
    with tempfile.TemporaryDirectory() as directory:
        inputs = Path(directory) / "feeds.npz"
        write_arrays(inputs, feeds)
        specification = json.dumps(asdict(spec))
        command = [sys.executable, "-m", __name__, str(model), specification, str(inputs)]
        try:
            done = subprocess.run(
                command,
                env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise InvalidModel(
                f"memory could not be measured: it took longer than {_TIMEOUT_S} s"
            ) from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise InvalidModel(f"memory could not be measured: {last}")
    return Footprint(**json.loads(done.stdout))


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
    die_with_parent()
    model, specification, inputs = sys.argv[1:]
    spec = TypeAdapter(SessionSpec).validate_json(specification)
    try:
        footprint = _measure_here(Path(model), spec, read_arrays(Path(inputs)))
    except (MemoryError, OutOfMemory) as error:
        print(error, file=sys.stderr)
        sys.exit(_LACKS_MEMORY)
    print(json.dumps(asdict(footprint)))


if __name__ == "__main__":
    _main()
