"""Pruning of models that are unusual: single outputs, further outputs, infinite answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from optimizers.contract.goal import Goal
from optimizers.contract.host import this_host
from optimizers.contract.profile import Task
from optimizers.contract.pruning import PruneChannels
from optimizers.contract.runtime import SessionSpec
from optimizers.graph import load_with_constants
from optimizers.pruning import prune_channels
from optimizers.pruning.flow.analysis import analyse
from optimizers.pruning.groups import find_groups, kept_for_a_reason
from optimizers.pruning.importance import weight_importance
from optimizers.step import StepContext
from tests.support import models
from tests.support.data import write_data

NODE = onnx.helper.make_node
FLOAT = onnx.TensorProto.FLOAT
STRENGTHS = np.random.default_rng(5).permutation(np.arange(1, 17)).astype(np.float32)


@pytest.fixture
def context(tmp_path: Path) -> StepContext:
    work = tmp_path / "work"
    work.mkdir()
    return StepContext(
        work_directory=work,
        original=tmp_path / "model.onnx",
        host=this_host(2),
        session=SessionSpec(),
        goal=Goal(),
        task=Task.CLASSIFICATION,
        data={},
        seed=0,
        report=lambda share, text: None,
    )


def single_output(path: Path, operator: str) -> Path:
    """x [batch, 8] → 16 equally large rows → Relu → a layer with one output that tells them apart.

    Its weight is [1, C] for a Gemm that transposes it, [C, 1] for a MatMul.
    """
    rows = np.random.default_rng(0).choice([-1.0, 1.0], (8, 16)).astype(np.float32)
    last = STRENGTHS[None, :] if operator == "Gemm" else STRENGTHS[:, None]
    settings: dict[str, Any] = {"transB": 1} if operator == "Gemm" else {}
    return models.save(
        path,
        [
            NODE("MatMul", ["x", "one"], ["h"], name="first"),
            NODE("Relu", ["h"], ["r"], name="relu"),
            NODE(operator, ["r", "two"], ["y"], name="second", **settings),
        ],
        [("x", FLOAT, ["batch", 8])],
        [("y", FLOAT, ["batch", 1])],
        {"one": rows, "two": last},
    )


@pytest.mark.parametrize("operator", ["Gemm", "MatMul"])
def test_a_layer_with_one_output_tells_which_channels_matter(tmp_path: Path, operator: str) -> None:
    flow = analyse(load_with_constants(single_output(tmp_path / "model.onnx", operator)))
    [group] = find_groups(flow)
    np.testing.assert_allclose(weight_importance(flow, group, "l1"), 8 + STRENGTHS)


@pytest.mark.parametrize("operator", ["Gemm", "MatMul"])
def test_activations_judge_what_a_layer_with_one_output_reads(
    tmp_path: Path, context: StepContext, operator: str
) -> None:
    path = single_output(tmp_path / "model.onnx", operator)
    result = prune_channels.apply(
        path, PruneChannels(importance="activation", round_to=0), with_data(context, path)
    )
    kept = constant(result.model, "two").reshape(-1)
    x = np.load(path.parent / "data/calibration.npz")["x"]
    strength = np.sqrt((np.maximum(x @ constant(path, "one"), 0) ** 2).mean(axis=0))
    wanted = STRENGTHS[np.sort(np.argsort(strength * STRENGTHS)[8:])]
    np.testing.assert_array_equal(kept, wanted)


def test_a_layer_with_one_output_is_not_said_to_be_left_alone(tmp_path: Path) -> None:
    flow = analyse(load_with_constants(single_output(tmp_path / "model.onnx", "Gemm")))
    assert [layer.node for layer in flow.layers] == ["first", "second"]
    assert list(kept_for_a_reason(flow)) == []


def test_activations_of_a_model_in_which_nothing_can_go(
    tmp_path: Path, context: StepContext
) -> None:
    """Nothing that a layer reads can become narrower, so there is nothing to measure."""
    path = models.perceptron(tmp_path / "model.onnx", sizes=(8, 4))
    result = prune_channels.apply(
        path, PruneChannels(importance="activation"), with_data(context, path)
    )
    assert not result.modified
    assert result.notes[-1] == "no channel was taken out"


def with_data(context: StepContext, path: Path) -> StepContext:
    write_data(path.parent / "data", path)
    return replace(context, data={"calibration": path.parent / "data/calibration.npz"})


def constant(model: Path, name: str) -> NDArray[Any]:
    tensors = onnx.load(str(model)).graph.initializer
    return onnx.numpy_helper.to_array(next(one for one in tensors if one.name == name))
