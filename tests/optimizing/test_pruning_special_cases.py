"""Pruning of models that are unusual: single outputs, further outputs, infinite answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from optimizers.contract.profile import Task
from optimizers.contract.pruning import PruneChannels
from optimizers.graph import load_with_constants
from optimizers.pruning import prune_channels
from optimizers.pruning.flow.analysis import analyse
from optimizers.pruning.groups import find_groups, kept_for_a_reason
from optimizers.pruning.importance import weight_importance
from optimizers.pruning.sensitivity import broken, change, share_out
from optimizers.step import StepContext
from tests.support import models
from tests.support.contexts import step_context
from tests.support.data import write_data

NODE = onnx.helper.make_node
FLOAT = onnx.TensorProto.FLOAT
STRENGTHS = np.random.default_rng(5).permutation(np.arange(1, 17)).astype(np.float32)


@pytest.fixture
def context(tmp_path: Path) -> StepContext:
    return step_context(tmp_path, task=Task.CLASSIFICATION)


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


def between(path: Path, *nodes: onnx.NodeProto, opset: int, outputs: tuple[str, ...] = ()) -> Path:
    """x [batch, 3, 8, 8] → Conv to h [batch, 16, 8, 8] → nodes → r → Conv to y."""
    random = np.random.default_rng(0)
    shape: Sequence[int | str] = ("batch", 16, 4, 4)
    further = [(name, int(onnx.TensorProto.INT64), shape) for name in outputs]
    return models.save(
        path,
        [
            NODE("Conv", ["x", "one"], ["h"], name="first"),
            *nodes,
            NODE("Conv", ["r", "two"], ["y"], name="second"),
        ],
        [("x", FLOAT, ["batch", 3, 8, 8])],
        [
            ("y", FLOAT, ["batch", 5, "height", "width"]),
            *further,
        ],
        {
            "one": random.standard_normal((16, 3, 1, 1)).astype(np.float32),
            "two": random.standard_normal((5, 16, 1, 1)).astype(np.float32),
        },
        opset=opset,
    )


POOL = NODE("MaxPool", ["h"], ["r", "places"], name="pool", kernel_shape=[2, 2], strides=[2, 2])


@pytest.mark.parametrize("reader", ["a caller", "a node", "nobody"])
def test_a_further_output_that_is_read_keeps_the_channels(tmp_path: Path, reader: str) -> None:
    """What MaxPool found where counts through all channels, so it changes with their number."""
    nodes = [POOL, *([NODE("Abs", ["places"], ["unused"])] if reader == "a node" else [])]
    outputs = ("places",) if reader == "a caller" else ()
    path = between(tmp_path / "model.onnx", *nodes, opset=20, outputs=outputs)
    flow = analyse(load_with_constants(path))
    if reader == "nobody":
        assert [group.name for group in find_groups(flow)] == ["first"]
        return
    assert find_groups(flow) == []
    assert "which gives a further output that is read" in dict(kept_for_a_reason(flow))["first"]


@pytest.mark.parametrize(
    ("opset", "settings", "free"),
    [
        (11, {}, False),
        (11, {"axis": 1}, False),
        (11, {"axis": 0}, False),
        (11, {"axis": 2}, True),
        (11, {"axis": -1}, True),
        (13, {}, True),
        (13, {"axis": 0}, True),
        (13, {"axis": 1}, False),
    ],
)
@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax"])
def test_an_old_softmax_needs_all_axes_from_one_on(
    tmp_path: Path, operator: str, opset: int, settings: dict[str, Any], *, free: bool
) -> None:
    node = NODE(operator, ["h"], ["r"], name="softmax", **settings)
    flow = analyse(load_with_constants(between(tmp_path / "model.onnx", node, opset=opset)))
    assert bool(find_groups(flow)) == free


@pytest.mark.parametrize(
    ("original", "other", "wanted"),
    [
        ([3, 4, -np.inf], [3, 4, -np.inf], 0),
        ([3, 4, -np.inf], [3, 9, -np.inf], 1),
        ([3, 4, np.nan], [3, 9, np.nan], 1),
        ([3, 4, -np.inf], [3, 4, np.inf], np.inf),
        ([3, 4, -np.inf], [3, 4, 5], np.inf),
        ([3, 4, -np.inf], [3, 4, np.nan], np.inf),
        ([3, 4, 5], [3, 4, -np.inf], np.inf),
        ([3, 4, 5], [3, 4, np.nan], np.inf),
    ],
)
def test_only_what_is_infinite_and_stays_so_has_not_moved(
    original: list[float], other: list[float], wanted: float
) -> None:
    assert change([np.array(original)], [np.array(other)]) == wanted


def test_half_precision_answers_move_without_overflow() -> None:
    answers = [np.array([300.0, 400.0], np.float16)]
    assert change(answers, [answers[0] * np.float16(2)]) == 1


def test_a_group_that_moves_the_answers_infinitely_far_loses_least() -> None:
    assert share_out(0.5, [1.0, np.inf, 1.0]) == pytest.approx([0.5, 0.25, 0.5])
    assert share_out(0.5, [np.inf, np.inf]) == [0.25, 0.25]


def masking(path: Path) -> Path:
    """A perceptron of which one answer is always minus infinity."""
    model = onnx.load(str(models.perceptron(path)))
    [output] = model.graph.output
    mask = np.array([0, -np.inf, 0, 0], np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(mask, "mask"))
    model.graph.node.append(NODE("Add", [output.name, "mask"], ["masked"], name="masking"))
    output.name = "masked"
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize("sensitivity", [True, False])
def test_answers_that_were_infinite_before_do_not_stop_pruning(
    tmp_path: Path, context: StepContext, *, sensitivity: bool
) -> None:
    path = masking(tmp_path / "model.onnx")
    step = PruneChannels(sensitivity=sensitivity)
    result = prune_channels.apply(path, step, with_data(context, path))
    assert result.modified
    [moved] = [note for note in result.notes if "of their size, before training" in note]
    assert 0 < float(moved.split(" by ")[1].split()[0]) < np.inf


@pytest.mark.parametrize(
    ("original", "other", "wanted"),
    [
        ([1, -np.inf], [2, -np.inf], False),
        ([1, -np.inf], [2, 3], False),
        ([1, np.nan], [2, np.nan], False),
        ([1, -np.inf], [np.inf, -np.inf], True),
        ([1, -np.inf], [1, np.nan], True),
        ([1, 2], [1, np.nan], True),
    ],
)
def test_answers_are_broken_when_they_were_finite_before(
    original: list[float], other: list[float], *, wanted: bool
) -> None:
    assert broken([np.array(original)], [np.array(other)]) == wanted


def test_a_model_that_names_no_standard_operators_is_left_alone(tmp_path: Path) -> None:
    model = onnx.load(str(models.perceptron(tmp_path / "model.onnx")))
    for node in model.graph.node:
        node.domain = "custom"
    model.opset_import[0].domain = "custom"
    assert find_groups(analyse(model)) == []
