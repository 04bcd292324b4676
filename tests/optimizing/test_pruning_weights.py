"""The smallest weights become zero, and nothing is promised that zeros do not give."""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from optimizers.contract.errors import InvalidDocument
from optimizers.contract.profile import Task
from optimizers.contract.pruning import PruneWeights
from optimizers.pruning import prune_weights
from optimizers.pruning.magnitude import keep_largest_of_all, layer_norm
from optimizers.step import StepContext, StepResult
from tests.support import models, networks
from tests.support.contexts import step_context


@pytest.fixture
def context(tmp_path: Path) -> StepContext:
    return step_context(tmp_path, task=Task.CLASSIFICATION)


def weights(model: Path) -> dict[str, NDArray[Any]]:
    """Of convolutions and products, by name."""
    tensors = onnx.load(str(model)).graph.initializer
    found = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in tensors}
    return {name: value for name, value in found.items() if name.endswith(".w")}


def share_of_zeros(values: list[NDArray[Any]]) -> float:
    return sum(int((value == 0).sum()) for value in values) / sum(value.size for value in values)


@pytest.mark.parametrize("ratio", [0.3, 0.8])
def test_every_layer_loses_its_smallest_weights(
    tmp_path: Path, context: StepContext, ratio: float
) -> None:
    model = networks.lenet(tmp_path / "model.onnx")
    result = prune_weights.apply(model, PruneWeights(ratio=ratio), context)
    for name, before in weights(model).items():
        after, count = weights(result.model)[name], int(ratio * before.size)
        limit = np.sort(np.abs(before).reshape(-1))[count]
        np.testing.assert_array_equal(after, np.where(np.abs(before) < limit, 0, before))
        assert share_of_zeros([after]) == pytest.approx(ratio, abs=1 / before.size)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_all_layers_together_are_compared_by_their_norms(
    tmp_path: Path, context: StepContext, norm: Any
) -> None:
    """A layer whose weights are all a thousand times smaller loses no more than it did."""
    model = networks.lenet(tmp_path / "model.onnx")
    step = PruneWeights(ratio=0.6, scope="global", norm=norm)
    once = weights(prune_weights.apply(model, step, context).model)
    assert share_of_zeros(list(once.values())) == pytest.approx(0.6, abs=1e-3)
    shares = {name: share_of_zeros([value]) for name, value in once.items()}
    assert len(set(shares.values())) > 1, "layers lose different shares"
    scaled = onnx.load(str(model))
    for tensor in scaled.graph.initializer:
        if tensor.name == "conv2.w":
            value = onnx.numpy_helper.to_array(tensor) / np.float32(1024)
            tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    onnx.save(scaled, str(model))
    again = weights(prune_weights.apply(model, step, context).model)
    assert {name: share_of_zeros([value]) for name, value in again.items()} == shares


def test_the_norms_of_all_layers_are_means() -> None:
    values = {"a": np.array([1.0, -3.0]), "b": np.array([[0.1, 0.1, 0.2, 0.4]])}
    norms = {name: layer_norm(value, "l1") for name, value in values.items()}
    assert norms == pytest.approx({"a": 2.0, "b": 0.2})
    norms = {name: layer_norm(value, "l2") for name, value in values.items()}
    assert norms == pytest.approx({"a": 5**0.5, "b": (0.22 / 4) ** 0.5})
    masks = keep_largest_of_all(values, 0.5, "l1")  # sizes: 0.5, 1.5 and 0.5, 0.5, 1, 2
    assert masks["a"].tolist() == [False, True]
    assert masks["b"].tolist() == [[False, False, True, True]]
    assert layer_norm(np.zeros(3), "l2") == 1


def largest_two_of_four(row: NDArray[Any]) -> NDArray[Any]:
    result = np.zeros_like(row)
    for start in range(0, len(row), 4):
        best = sorted(range(start, start + 4), key=lambda place: -abs(row[place]))[:2]
        result[best] = row[best]
    return result


def test_a_pattern_holds_along_what_is_summed_over(tmp_path: Path, context: StepContext) -> None:
    model = networks.lenet(tmp_path / "model.onnx")
    result = prune_weights.apply(model, PruneWeights(pattern="2:4"), context)
    before, after = weights(model), weights(result.model)
    for row in range(24):  # neighbours of a Conv are input channels at one place of the kernel
        wanted = largest_two_of_four(before["conv2.w"][row, :, 1, 2])
        np.testing.assert_array_equal(after["conv2.w"][row, :, 1, 2], wanted)
    for row in range(48):  # of a Gemm with transB, the second axis
        wanted = largest_two_of_four(before["fc1.w"][row])
        np.testing.assert_array_equal(after["fc1.w"][row], wanted)
    np.testing.assert_array_equal(after["conv1.w"], before["conv1.w"])
    assert "left alone, its inputs are no multiple of 4: conv1.w" in result.notes


def test_a_pattern_of_a_product_goes_along_its_rows(tmp_path: Path, context: StepContext) -> None:
    model = networks.perceptron(tmp_path / "model.onnx")
    result = prune_weights.apply(model, PruneWeights(pattern="1:4"), context)
    for name, after in weights(result.model).items():
        blocks = np.count_nonzero(after.reshape(-1, 4, after.shape[1]), axis=1)
        assert (blocks == 1).all(), name
        across = np.count_nonzero(after[:, :8].reshape(len(after), -1, 4), axis=2)
        assert (across != 1).any(), "the same check along the other axis fails"


def test_zeros_save_bytes_only_when_compressed(tmp_path: Path, context: StepContext) -> None:
    model = networks.perceptron(tmp_path / "model.onnx")
    result = prune_weights.apply(model, PruneWeights(ratio=0.8), context)
    assert abs(result.model.stat().st_size - model.stat().st_size) < 200
    numbers = re.search(r"takes (\d+) → (\d+) bytes", result.notes[0])
    assert numbers is not None
    assert int(numbers[2]) < 0.5 * int(numbers[1])
    packed = len(zlib.compress(result.model.read_bytes()))
    assert int(numbers[2]) == pytest.approx(packed, rel=0.02)
    assert "no time in onnxruntime" in result.notes[1]


def test_what_is_excluded_keeps_its_weights(tmp_path: Path, context: StepContext) -> None:
    model = networks.lenet(tmp_path / "model.onnx")
    result = prune_weights.apply(model, PruneWeights(exclude=("conv1", "fc3")), context)
    zeros = {name: share_of_zeros([value]) > 0 for name, value in weights(result.model).items()}
    assert [name for name, some in zeros.items() if not some] == ["conv1.w", "fc3.w"]
    assert "left alone as asked: conv1, fc3" in result.notes
    with pytest.raises(InvalidDocument, match="exclude names pool1"):
        prune_weights.apply(model, PruneWeights(exclude=("pool1",)), context)


def test_a_table_that_is_a_weight_as_well_is_left_alone(
    tmp_path: Path, context: StepContext
) -> None:
    """A Gather reads the rows of words by which a product weighs its answers at the end."""
    random, make = np.random.default_rng(0), onnx.helper.make_node
    model = models.save(
        tmp_path / "model.onnx",
        [
            make("Gather", ["table.w", "tokens"], ["words"], name="words"),
            make("MatMul", ["words", "middle.w"], ["h"], name="middle"),
            make("Gemm", ["h", "table.w"], ["y"], name="head", transB=1),
        ],
        [("tokens", onnx.TensorProto.INT64, ["batch"])],
        [("y", onnx.TensorProto.FLOAT, ["batch", 20])],
        {
            "table.w": random.standard_normal((20, 8)).astype(np.float32),
            "middle.w": random.standard_normal((8, 8)).astype(np.float32),
        },
    )
    for step in (PruneWeights(), PruneWeights(scope="global"), PruneWeights(pattern="2:4")):
        result = prune_weights.apply(model, step, context)
        after = weights(result.model)
        assert share_of_zeros([after["middle.w"]]) == 0.5
        np.testing.assert_array_equal(after["table.w"], weights(model)["table.w"])
        assert "left alone, other nodes read it too: table.w" in result.notes


def test_pruning_twice_changes_nothing_more(tmp_path: Path, context: StepContext) -> None:
    model = networks.lenet(tmp_path / "model.onnx")
    once = prune_weights.apply(model, PruneWeights(), context)
    kept = tmp_path / "once.onnx"
    kept.write_bytes(once.model.read_bytes())
    again = prune_weights.apply(kept, PruneWeights(), context)
    assert_unchanged(again, kept)


def test_a_model_without_weights_is_left_alone(tmp_path: Path, context: StepContext) -> None:
    model = models.two_inputs(tmp_path / "model.onnx")
    assert_unchanged(prune_weights.apply(model, PruneWeights(), context), model)


def assert_unchanged(result: StepResult, model: Path) -> None:
    assert (result.modified, result.model) == (False, model)
    assert result.notes[0] == "no weight was set to zero"


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"ratio": 1.0}, r"prune_weights.ratio must be in \(0, 1\), got 1.0"),
        ({"pattern": "4:2"}, "prune_weights.pattern must be N:M with 0 < N < M, got '4:2'"),
        ({"pattern": "half"}, "prune_weights.pattern must be N:M"),
        ({"pattern": "2:4", "ratio": 0.7}, "prune_weights.ratio and .scope must be left out"),
        ({"pattern": "2:4", "scope": "global"}, "prune_weights.ratio and .scope must be left out"),
    ],
)
def test_parameters_are_checked(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidDocument, match=text):
        PruneWeights(**wrong)
