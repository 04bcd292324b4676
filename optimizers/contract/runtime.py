"""A variant opened in ONNX Runtime: what is measured is what serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from optimizers.contract.errors import InvalidDocument, InvalidModel, RunFailed
from optimizers.contract.onnx_file import read_onnx_file
from optimizers.contract.signature import Signature, tensor_spec

Feeds = Mapping[str, NDArray[Any]]
"""Input name → array of the signature's datatype and shape."""

Optimization = Literal["all", "extended", "basic", "disabled"]

_LEVELS: Final = {
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "disabled": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
_PROVIDERS: Final = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_ERRORS_ONLY: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSpec:
    """How a variant is opened.

    Attributes:
        provider: Where it computes.
        intra_op_threads: Threads inside one run, at least 1.
        lanes: Concurrent runs, at least 1.
        max_batch: Most rows joined into one run, at least 1; 1 serves every request alone.
        arena: Whether the runtime keeps freed memory for itself.
        optimization: onnxruntime's graph optimisation level.
        spinning: Whether idle threads burn CPU to wake faster.
    """

    provider: Literal["cpu", "cuda"] = "cpu"
    intra_op_threads: int = 1
    lanes: int = 1
    max_batch: int = 1
    arena: bool = False
    optimization: Optimization = "all"
    spinning: bool = False

    def __post_init__(self) -> None:
        for name in ("intra_op_threads", "lanes", "max_batch"):
            if getattr(self, name) < 1:
                raise InvalidDocument(f"{name} must be at least 1, got {getattr(self, name)}")


class Session:
    """An open variant and its lanes. Safe to use from several threads; close it once."""

    def __init__(self, path: Path, spec: SessionSpec) -> None:
        """Open the model file at `path`.

        Raises:
            InvalidModel: The file is damaged, unsupported, or refers to files outside its
                directory.
        """
        read_onnx_file(path)
        self.path = path
        self.spec = spec
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), _options(spec), providers=[_PROVIDERS[spec.provider]]
            )
        except Exception as error:  # onnxruntime raises a dozen unrelated classes
            raise InvalidModel(f"onnxruntime cannot load {path.name}: {_short(error)}") from error
        self.signature = Signature(
            inputs=tuple(tensor_spec(i.name, i.type, i.shape) for i in self._session.get_inputs()),
            outputs=tuple(
                tensor_spec(o.name, o.type, o.shape) for o in self._session.get_outputs()
            ),
        )
        self._lanes = ThreadPoolExecutor(spec.lanes, thread_name_prefix="lane")

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> list[NDArray[Any]]:
        """Compute in the calling thread.

        Args:
            feeds: One array per input.
            outputs: Names of the outputs wanted, None for all in the signature's order.

        Returns:
            One array per requested output, in the requested order.

        Raises:
            RunFailed: The runtime refused, for example because two inputs do not fit together.
        """
        try:
            results = self._session.run(outputs, feeds)
        except Exception as error:  # onnxruntime raises a dozen unrelated classes
            raise RunFailed(f"the model could not be run: {_short(error)}") from error
        return [np.asarray(result) for result in results]

    def submit(
        self, feeds: Feeds, outputs: Sequence[str] | None = None
    ) -> Future[list[NDArray[Any]]]:
        """Compute on a lane; like `run`, but returns at once."""
        return self._lanes.submit(self.run, feeds, outputs)

    def close(self) -> None:
        """Wait for what is running and free the session's memory."""
        self._lanes.shutdown(wait=True)
        del self._session


def _options(spec: SessionSpec) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = spec.intra_op_threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = spec.arena
    options.enable_mem_pattern = spec.arena
    options.graph_optimization_level = _LEVELS[spec.optimization]
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spec.spinning)))
    return options


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 400 else text[:400] + "…"
