"""Questions whose right answers are known: small models, and inputs that nobody asked before."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from server.client import inference_request
from server.pb import open_inference_pb2 as pb
from tests.support import models

LIMIT_BYTES: Final = 8 << 20
"""The largest message that the server under test takes."""

SWAPPED: Final = "swapped"
COMING_AND_GOING: Final = "coming_and_going"
_SEEDS: Final = (1, 2)
_ROUNDING: Final = 1e-4
Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A request, and what is right.

    Attributes:
        request: What is sent.
        is_right: Whether these outputs, by name, answer it.
    """

    request: pb.ModelInferRequest
    is_right: Callable[[Mapping[str, Array]], bool]


def write_repository(directory: Path) -> None:
    """Models that compute, models that only copy, one that is swapped, one that comes and goes."""
    models.two_inputs(directory / "sums/1/model.onnx")
    models.free_widths(directory / "widths/1/model.onnx")
    models.identity(directory / "same/1/model.onnx", onnx.TensorProto.INT64, ["batch", "n"])
    models.identity(directory / "bytes/1/model.onnx", onnx.TensorProto.UINT8, ["batch", "n"])
    models.two_inputs(directory / COMING_AND_GOING / "1/model.onnx")
    for seed in _SEEDS:
        models.linear(directory.parent / f"linear{seed}.onnx", seed=seed)
    swap(directory, 0)


def swap(directory: Path, turn: int) -> None:
    """Put the other file in the place of the swapped model's, in one step."""
    target = directory / SWAPPED / "1/model.onnx"
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = directory.parent / "fresh.onnx"
    shutil.copy(directory.parent / f"linear{_SEEDS[turn % len(_SEEDS)]}.onnx", fresh)
    fresh.replace(target)


def question(source: random.Random) -> Question:
    """Any question but a large one."""
    return source.choice((_sum, _widths, _same, _swapped))(source)


def fleeting(source: random.Random) -> Question:
    """A question to the model that is loaded and unloaded all the time."""
    return _sum(source, COMING_AND_GOING)


def large(source: random.Random, size: int) -> Question:
    """So many bytes, which come back."""
    x = _floats(source, 1, size // 4).view(np.uint8)
    return Question(
        request=inference_request("bytes", {"x": x}),
        is_right=lambda outputs: bool((outputs["y"] == x).all()),
    )


def outputs_of(response: pb.ModelInferResponse) -> dict[str, Array]:
    """The outputs by name; of the datatypes that these models have."""
    kinds = {"FP32": np.float32, "INT64": np.int64, "UINT8": np.uint8}
    return {
        tensor.name: np.frombuffer(raw, kinds[tensor.datatype]).reshape(tensor.shape)
        for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def _floats(source: random.Random, *shape: int) -> Array:
    return np.random.default_rng(source.getrandbits(64)).random(shape, dtype=np.float32)


def _sum(source: random.Random, model: str = "sums") -> Question:
    shape = source.randrange(1, 4), source.choice((1, 5, 64, 700))
    a, b = _floats(source, *shape), _floats(source, *shape)

    def is_right(outputs: Mapping[str, Array]) -> bool:
        return bool((outputs["sum"] == a + b).all() and (outputs["difference"] == a - b).all())

    return Question(request=inference_request(model, {"a": a, "b": b}), is_right=is_right)


def _widths(source: random.Random) -> Question:
    rows = source.randrange(1, 4)
    a = _floats(source, rows, source.randrange(1, 50))
    b = _floats(source, rows, source.randrange(1, 50))
    right = a.sum(1) + b.sum(1)
    return Question(
        request=inference_request("widths", {"a": a, "b": b}),
        is_right=lambda outputs: np.allclose(outputs["sum"], right, atol=_ROUNDING),
    )


def _same(source: random.Random) -> Question:
    shape = source.randrange(1, 5), source.randrange(1, 40)
    x = np.random.default_rng(source.getrandbits(64)).integers(-(1 << 62), 1 << 62, shape)
    return Question(
        request=inference_request("same", {"x": x}),
        is_right=lambda outputs: bool((outputs["y"] == x).all()),
    )


def _swapped(source: random.Random) -> Question:
    """Either file may answer, but one of them has to."""
    x = _floats(source, source.randrange(1, 4), 4)
    right = [
        x @ np.random.default_rng(seed).standard_normal((4, 3)).astype(np.float32)
        + np.arange(3, dtype=np.float32)
        for seed in _SEEDS
    ]
    return Question(
        request=inference_request(SWAPPED, {"x": x}),
        is_right=lambda outputs: any(
            np.allclose(outputs["y"], one, atol=_ROUNDING) for one in right
        ),
    )
