"""Running statistics follow weights that changed without them: after a cut, after averaging."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from optimizers.contract.distillation import Distill, Finetune
from optimizers.contract.pruning import PruneChannels
from optimizers.contract.training import Training
from optimizers.learning import learn
from optimizers.step import StepContext
from optimizers.techniques import apply_step
from tests.support import models
from tests.support.digits import SHORT, accuracy, training_context

ALMOST_NONE = Training(
    epochs=1, batch_size=675, learning_rate=1e-6, optimizer="sgd", schedule="constant"
)
"""Two steps that change no weight to speak of; statistics move by a fifth."""


def normalised(path: Path, width: int = 64) -> Path:
    """Digits through two layers, each with a batch normalisation behind it."""
    random = np.random.default_rng(0)
    weights: dict[str, NDArray[np.float32]] = {}
    nodes, value = [], "x"
    for index, (rows, columns) in enumerate([(784, width), (width, width)]):
        scale = np.sqrt(2 / rows)
        weights[f"w{index}"] = (random.standard_normal((rows, columns)) * scale).astype(np.float32)
        for name, filler in (("b", 0), ("scale", 1), ("shift", 0), ("mean", 0), ("var", 1)):
            weights[f"{name}{index}"] = np.full(columns, filler, np.float32)
        names = [f"{name}{index}" for name in ("scale", "shift", "mean", "var")]
        nodes += [
            helper.make_node("Gemm", [value, f"w{index}", f"b{index}"], [f"g{index}"]),
            helper.make_node("BatchNormalization", [f"g{index}", *names], [f"n{index}"]),
            helper.make_node("Relu", [f"n{index}"], [f"r{index}"]),
        ]
        value = f"r{index}"
    weights["head"] = (random.standard_normal((width, 10)) * 0.1).astype(np.float32)
    nodes.append(helper.make_node("MatMul", [value, "head"], ["y"]))
    return models.save(
        path,
        nodes,
        [("x", TensorProto.FLOAT, ["batch", 784])],
        [("y", TensorProto.FLOAT, ["batch", 10])],
        weights,
    )


@pytest.fixture
def context(tmp_path: Path) -> StepContext:
    """The original is a trained net with batch normalisation."""
    context = training_context(tmp_path)
    start = normalised(tmp_path / "start.onnx")
    result = apply_step(start, Finetune(training=SHORT), context)
    context.original.write_bytes(result.model.read_bytes())
    return context


@pytest.fixture
def unsettled(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """The planted fault: statistics stay as they were."""
    return lambda: monkeypatch.setattr(learn, "_settle", lambda *given: None)


def test_statistics_are_estimated_anew_after_a_cut(
    context: StepContext, unsettled: Callable[[], None]
) -> None:
    cut = apply_step(context.original, PruneChannels(ratio=0.5, importance="l2"), context).model
    cut = cut.replace(cut.with_name("cut.onnx"))
    settled = apply_step(cut, Distill(training=ALMOST_NONE), context)
    assert "with statistics estimated anew" in settled.notes[0]
    with_them = accuracy(settled.model)
    unsettled()
    without = accuracy(apply_step(cut, Distill(training=ALMOST_NONE), context).model)
    assert with_them > max(without, accuracy(cut)) + 0.04


def test_statistics_are_those_of_the_averaged_weights(
    context: StepContext, unsettled: Callable[[], None], tmp_path: Path
) -> None:
    start = normalised(tmp_path / "start.onnx")
    training = replace(SHORT, epochs=1, ema=0.99, learning_rate=0.02, schedule="constant")

    def error() -> float:
        """Of the stored means of the first layer, in standard deviations of what it gives."""
        result = apply_step(start, Finetune(training=training), context)
        graph = onnx.load(str(result.model)).graph
        stored = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
        with np.load(context.data["train"]) as data:
            found = data["x"] @ stored["w0"] + stored["b0"]
        return float(np.abs((found.mean(axis=0) - stored["mean0"]) / found.std(axis=0)).mean())

    right = error()
    unsettled()
    assert right < 0.1
    assert error() > 2 * right


def test_what_statistics_made_worse_is_taken_back(context: StepContext) -> None:
    """Of a net that was not cut they may be no better; then they stay the ones it came with."""
    step = Distill(weight=1.0, training=ALMOST_NONE)
    result = apply_step(context.original, step, context)
    assert not result.modified, "the original answers like itself with its own"
