"""The four models under load: names, inputs and requests. Knows no torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from server.client import inference_request
from server.pb import open_inference_pb2 as inference

TOKENS: Final = 128
VOCABULARY: Final = 30522
Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One model of the benchmarks, with input `x` and output `y`.

    Attributes:
        name: Its folder in the repository.
        example: Makes the input of so many rows.
        is_heavy: Whether a run costs far more than a call.
    """

    name: str
    example: Callable[[int], Array]
    is_heavy: bool

    def request(self) -> inference.ModelInferRequest:
        """One row, as every server gets it."""
        return inference_request(self.name, {"x": self.example(1)})

    def answer(self, repository: Path) -> Array:
        """What onnxruntime says to the same row."""
        session = onnxruntime.InferenceSession(str(file_of(repository, self.name)))
        answer: Array = session.run(None, {"x": self.example(1)})[0]
        return answer


def _floats(*shape: int) -> Callable[[int], Array]:
    return lambda rows: np.random.default_rng(0).random((rows, *shape), dtype=np.float32)


def _tokens(rows: int) -> Array:
    return np.random.default_rng(0).integers(0, VOCABULARY, (rows, TOKENS))


TINY: Final = Model(name="tiny", example=_floats(64), is_heavy=False)
LENET: Final = Model(name="lenet", example=_floats(3, 32, 32), is_heavy=False)
RESNET18: Final = Model(name="resnet18", example=_floats(3, 224, 224), is_heavy=True)
MINILM: Final = Model(name="minilm", example=_tokens, is_heavy=True)
MODELS: Final = (TINY, LENET, RESNET18, MINILM)


def file_of(repository: Path, name: str) -> Path:
    """A model's file."""
    return repository / name / "1" / "model.onnx"


def write_repository(directory: Path) -> None:
    """Export all four in a process of its own, so that this one stays without torch."""
    subprocess.run([sys.executable, "-m", "benchmarks.networks", str(directory)], check=True)
