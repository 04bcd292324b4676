"""Execution providers by name, what an operator may want of one, and what onnxruntime is told."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from optimizers.contract.errors import InvalidDocument

_log = logging.getLogger(__name__)

Provider = Literal["cpu", "cuda", "tensorrt", "openvino"]

EXECUTION_PROVIDERS: Final[dict[Provider, str]] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
"""Our name of each → onnxruntime's."""
ON_GPU: Final[frozenset[Provider]] = frozenset({"cuda", "tensorrt"})
ENGINE_CACHE: Final = "HONE_ENGINE_CACHE"
"""Environment variable: the folder where TensorRT keeps engines, whose building takes minutes.

It is no part of a session's spec, which is stored: a manifest names no folder of a machine.
"""

MOST_DEVICES: Final = 1024
_MOST_STREAMS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderOptions:
    """What a provider is told besides threads and lanes; what does not concern it has no effect.

    Attributes:
        device: Number of the GPU; cuda and tensorrt.
        memory_limit_bytes: Most that cuda keeps for tensors, and tensorrt's workspace for building
            engines; 0 for no limit. A GPU holds more than this: libraries and kernels as well.
        graphs: Whether each set of input shapes is captured as a CUDA graph, which runs without
            the processor's help; cuda only. onnxruntime refuses models with control flow.
        allow_fallback: Whether nodes that the provider cannot compute may run on the processor.
    """

    device: int = 0
    memory_limit_bytes: int = 0
    graphs: bool = False
    allow_fallback: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.device < MOST_DEVICES:
            raise InvalidDocument(f"device must be from 0 to {MOST_DEVICES - 1}, got {self.device}")
        if self.memory_limit_bytes < 0:
            raise InvalidDocument(
                f"memory_limit_bytes must not be negative, got {self.memory_limit_bytes}"
            )


def device_name(provider: Provider, options: ProviderOptions) -> str:
    """The device that computes, out of a small closed set: `cpu` or `gpu:NUMBER`."""
    return f"gpu:{options.device}" if provider in ON_GPU else "cpu"


def arguments(
    provider: Provider, options: ProviderOptions, *, threads: int, lanes: int
) -> dict[str, str]:
    """What onnxruntime is told of `provider`, in its own words.

    Args:
        provider: Who computes.
        options: What the operator wants of it.
        threads: Threads inside one run.
        lanes: Concurrent runs.
    """
    match provider:
        case "cuda":
            told = {
                "device_id": str(options.device),
                "arena_extend_strategy": "kSameAsRequested",
                "cudnn_conv_algo_search": "HEURISTIC",
                "enable_cuda_graph": str(int(options.graphs)),
            }
            if options.memory_limit_bytes:
                told["gpu_mem_limit"] = str(options.memory_limit_bytes)
            return told
        case "tensorrt":
            told = {"device_id": str(options.device), "trt_fp16_enable": "False"}
            if options.memory_limit_bytes:
                told["trt_max_workspace_size"] = str(options.memory_limit_bytes)
            return told
        case "openvino":
            return {
                "device_type": "CPU",
                "num_of_threads": str(threads * lanes),
                "num_streams": str(min(lanes, _MOST_STREAMS)),
                "precision": "FP32",  # processors with AMX would round to bfloat16 otherwise
            }
    return {}


def profile_shapes(inputs: Sequence[Any], max_batch: int) -> dict[str, str]:
    """TensorRT's options for a batch of 1 to `max_batch` rows, so that one engine serves all.

    Args:
        inputs: Name and shape of each input, as onnxruntime describes them.
        max_batch: Most rows.

    Returns:
        Nothing where no input is variable, or where another dimension than the first is: TensorRT
        then learns the ranges from what it is given and builds again whenever one grows.
    """
    variable = [one for one in inputs if any(not isinstance(n, int) for n in one.shape)]
    if not variable or any(not isinstance(n, int) for one in variable for n in one.shape[1:]):
        return {}

    def shapes(rows: int) -> str:
        return ",".join(
            f"{one.name}:{'x'.join(map(str, (rows, *one.shape[1:])))}" for one in variable
        )

    return {
        "trt_profile_min_shapes": shapes(1),
        "trt_profile_opt_shapes": shapes(max_batch),
        "trt_profile_max_shapes": shapes(max_batch),
    }


def engine_cache() -> dict[str, str]:
    """TensorRT's options for keeping engines; none when no folder is named or can be made."""
    folder = os.environ.get(ENGINE_CACHE)
    if not folder:
        return {}
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _log.warning("TensorRT's engines are not kept in %s: %s", folder, error.strerror)
        return {}
    return {"trt_engine_cache_enable": "True", "trt_engine_cache_path": folder}
