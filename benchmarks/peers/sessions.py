"""What every server to compare with shares: the same model files behind the same sessions.

Also runs inside a peer's own environment, so it imports nothing but numpy and onnxruntime.

Fair settings: a light model has one thread and runs where it is called, which is the most a Python
server gets out of it; a heavy one (a file of 8 MiB and more) runs on a pool of as many threads as
there are processors, one thread a run, which gives the most throughput.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

HEAVY_BYTES = 8 << 20
CPUS = len(os.sched_getaffinity(0))


class Model:
    """One model file with input `x` and output `y`, float32.

    Attributes:
        name: Its folder in the repository.
        is_heavy: Whether a run costs far more than a call.
        dtype: Of the input.
        row: Shape of one row of the input.
        result: Shape of one row of the output.
    """

    def __init__(self, folder: Path, threads: int = 1) -> None:
        """Open `FOLDER/1/model.onnx` for runs of so many threads, up to the processors."""
        path = folder / "1" / "model.onnx"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self._pool = ThreadPoolExecutor(CPUS // threads)
        [source], [result] = self._session.get_inputs(), self._session.get_outputs()
        self.name = folder.name
        self.is_heavy = path.stat().st_size >= HEAVY_BYTES
        self.dtype: Any = np.int64 if "int64" in source.type else np.float32
        self.row = tuple(source.shape[1:])
        self.result = tuple(result.shape[1:])

    def run(self, x: Any) -> Any:
        """Rows in, rows out, on this thread."""
        return self._session.run(None, {"x": x})[0]

    async def answer(self, x: Any) -> Any:
        """The same, without holding the event loop for a heavy model."""
        if not self.is_heavy:
            return self.run(x)
        return await asyncio.get_running_loop().run_in_executor(self._pool, self.run, x)


def folders(repository: str) -> list[Path]:
    """Every model's folder, by name."""
    return sorted(Path(repository).iterdir())
