"""Batch normalisation that comes for the training and goes again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from optimizers.contract.runtime import Session, SessionSpec
from optimizers.graph import count_operators
from optimizers.learning.items import TrainingItems
from optimizers.learning.normalization import fold_batch_norm, insert_batch_norm
from tests.support import models


def test_it_is_the_identity_when_it_comes_and_when_it_goes(tmp_path: Path) -> None:
    model = models.convolutional(tmp_path / "model.onnx")
    random = np.random.default_rng(0)
    x = random.standard_normal((64, 1, 12, 12)).astype(np.float32)
    items = TrainingItems(arrays={"x": x}, labels=None, count=64)
    assert insert_batch_norm(model, items, tmp_path / "normalised.onnx") == 1
    assert count_operators(tmp_path / "normalised.onnx", "BatchNormalization") == 1
    fold_batch_norm(tmp_path / "normalised.onnx", tmp_path / "folded.onnx")
    assert count_operators(tmp_path / "folded.onnx", "BatchNormalization") == 0

    moved = onnx.load(str(tmp_path / "normalised.onnx"))  # as if it had been trained
    for tensor in moved.graph.initializer:
        if "_norm_" in tensor.name:
            array = numpy_helper.to_array(tensor) * np.float32(1.3)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(moved, str(tmp_path / "trained.onnx"))
    fold_batch_norm(tmp_path / "trained.onnx", tmp_path / "trained_folded.onnx")

    def answers(name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        session = Session(tmp_path / name, SessionSpec(optimization="disabled"))
        return np.asarray(session.run({"x": x})[0])

    original = answers("model.onnx")
    assert np.abs(answers("normalised.onnx") - original).max() < 1e-4
    assert np.abs(answers("folded.onnx") - original).max() < 1e-4
    assert np.abs(answers("trained.onnx") - original).max() > 1e-2
    assert np.abs(answers("trained.onnx") - answers("trained_folded.onnx")).max() < 1e-4


def test_a_kernel_that_two_convolutions_share_is_left_alone(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    model = models.save(
        tmp_path / "model.onnx",
        [
            onnx.helper.make_node("Conv", ["x", "w"], ["a"]),
            onnx.helper.make_node("Conv", ["a", "w"], ["b"]),
            onnx.helper.make_node("Conv", ["b", "v"], ["y"]),
        ],
        [("x", onnx.TensorProto.FLOAT, ["batch", 2, 8, 8])],
        [("y", onnx.TensorProto.FLOAT, ["batch", 3, 8, 8])],
        {
            "w": random.standard_normal((2, 2, 1, 1)).astype(np.float32),
            "v": random.standard_normal((3, 2, 1, 1)).astype(np.float32),
        },
    )
    x = random.standard_normal((40, 2, 8, 8)).astype(np.float32)
    items = TrainingItems(arrays={"x": x}, labels=None, count=40)
    assert insert_batch_norm(model, items, tmp_path / "normalised.onnx") == 1


def test_a_model_without_convolutions_is_left_as_it_is(tmp_path: Path) -> None:
    model = models.perceptron(tmp_path / "model.onnx")
    x = np.zeros((4, 16), np.float32)
    items = TrainingItems(arrays={"x": x}, labels=None, count=4)
    assert insert_batch_norm(model, items, tmp_path / "normalised.onnx") == 0
    assert not (tmp_path / "normalised.onnx").exists()
