"""Taylor importance: what the loss would lose with a channel, from its slope."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from optimizers.contract.errors import InvalidData, NotSupported
from optimizers.contract.profile import Task
from optimizers.contract.pruning import PruneChannels
from optimizers.graph import load_with_constants
from optimizers.pruning import prune_channels
from optimizers.pruning.groups import find_groups
from optimizers.pruning.importance import taylor_importance
from optimizers.pruning.slopes import weight_slopes
from optimizers.step import StepContext
from tests.support import networks
from tests.support.contexts import step_context
from tests.support.pruning import flow_of

SAMPLES = 24
"""A batch of 16 and one of 8."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return networks.perceptron(tmp_path / "model.onnx")


def images() -> NDArray[np.float32]:
    return np.random.default_rng(4).standard_normal((40, 1, 8, 8)).astype(np.float32)


def classes() -> NDArray[np.int64]:
    return np.random.default_rng(5).integers(0, 10, 40)


def drawn() -> NDArray[np.int64]:
    """The items that slopes are made of, in order."""
    return np.random.default_rng(0).permutation(40)[:SAMPLES]


def context_with(tmp_path: Path, task: Task, **arrays: NDArray[Any]) -> StepContext:
    np.savez(tmp_path / "train.npz", allow_pickle=False, **arrays)
    return step_context(tmp_path, task=task, data={"train": tmp_path / "train.npz"})


def by_hand(
    weights: dict[str, NDArray[Any]], x: NDArray[Any], labels: NDArray[np.int64] | None
) -> dict[str, NDArray[np.float64]]:
    """|w ∂L/∂w| of every weight of the perceptron, with its derivatives written out."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    x = x.reshape(len(x), -1).astype(np.float64)
    one = x @ w["fc1.w"] + w["fc1.b"]
    first = np.maximum(one, 0)
    second = np.tanh(first @ w["fc2.w"] + w["fc2.b"])
    logits = second @ w["fc3.w"] + w["fc3.b"]
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    right = logits.argmax(axis=1) if labels is None else labels
    d3 = (shares - np.eye(10)[right]) / len(x)
    d2 = (d3 @ w["fc3.w"].T) * (1 - second**2)
    d1 = (d2 @ w["fc2.w"].T) * (one > 0)
    gradients = {
        "fc1.w": x.T @ d1,
        "fc2.w": first.T @ d2,
        "fc3.w": second.T @ d3,
        "fc1.b": d1.sum(axis=0),
        "fc2.b": d2.sum(axis=0),
        "fc3.b": d3.sum(axis=0),
    }
    return {name: np.abs(w[name] * gradient) for name, gradient in gradients.items()}


@pytest.mark.parametrize("labelled", [True, False])
def test_taylor_importance_is_the_sum_of_weights_times_their_slopes(
    tmp_path: Path, model: Path, labelled: bool
) -> None:
    x, labels = images(), classes() if labelled else None
    arrays: dict[str, NDArray[Any]] = {"x": x} if labels is None else {"x": x, "labels": labels}
    context = context_with(tmp_path, Task.CLASSIFICATION, **arrays)
    loaded = load_with_constants(model)
    flow = flow_of(loaded)
    slopes = weight_slopes(loaded, SAMPLES, context)
    parts = [
        by_hand(flow.constants, x[part], None if labels is None else labels[part])
        for part in (drawn()[:16], drawn()[16:])
    ]
    mean = {name: (parts[0][name] + parts[1][name]) / 2 for name in parts[0]}
    for index, group in enumerate(find_groups(flow), 1):
        gives, reads = mean[f"fc{index}.w"], mean[f"fc{index + 1}.w"]
        wanted = gives.sum(axis=0) + mean[f"fc{index}.b"] + reads.sum(axis=1)
        np.testing.assert_allclose(taylor_importance(flow, group, slopes), wanted, rtol=1e-3)


def test_channels_with_the_least_slope_go(tmp_path: Path, model: Path) -> None:
    context = context_with(tmp_path, Task.CLASSIFICATION, x=images(), labels=classes())
    step = PruneChannels(importance="taylor", samples=SAMPLES, exclude=("fc2",))
    result = prune_channels.apply(model, step, context)
    before = flow_of(load_with_constants(model), exclude=("fc2",))
    [group] = find_groups(before)
    scores = taylor_importance(
        before, group, weight_slopes(load_with_constants(model), SAMPLES, context)
    )
    stays = np.sort(np.argsort(scores)[48:])
    after = flow_of(load_with_constants(result.model))
    np.testing.assert_array_equal(after.constants["fc1.b"], before.constants["fc1.b"][stays])


def test_a_loss_without_a_slope_is_refused(tmp_path: Path, model: Path) -> None:
    context = context_with(tmp_path, Task.OTHER, x=images())
    with pytest.raises(NotSupported, match="needs a loss with a slope"):
        prune_channels.apply(model, PruneChannels(importance="taylor"), context)
    moved = load_with_constants(model)
    first = moved.graph.initializer[0]
    first.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(first) / 2, first.name))
    assert any(one.any() for one in weight_slopes(moved, SAMPLES, context).values())


def test_a_file_that_is_sorted_by_class_shows_all_classes(tmp_path: Path, model: Path) -> None:
    """A hundred of 400 items say the same of the weights, however the file is sorted."""
    labels, seen = np.repeat(np.arange(10), 40), []
    random = np.random.default_rng(4)
    kinds = random.standard_normal((10, 1, 8, 8))
    x = (kinds[labels] + 0.3 * random.standard_normal((400, 1, 8, 8))).astype(np.float32)
    for order in (np.arange(400), np.random.default_rng(6).permutation(400)):
        context = context_with(tmp_path, Task.CLASSIFICATION, x=x[order], labels=labels[order])
        slopes = weight_slopes(load_with_constants(model), 100, context)
        scores = np.concatenate([slopes[name].ravel() for name in ("fc1.w", "fc2.w", "fc3.w")])
        seen.append(scores)
    assert np.corrcoef(seen)[0, 1] > 0.8


def test_slopes_that_are_no_numbers_are_refused(tmp_path: Path, model: Path) -> None:
    context = context_with(tmp_path, Task.CLASSIFICATION, x=images(), labels=classes())
    wild = load_with_constants(model)
    for tensor in wild.graph.initializer:
        if tensor.name == "fc3.w":
            huge = np.sign(numpy_helper.to_array(tensor)) * np.float32(3e38)
            tensor.CopyFrom(numpy_helper.from_array(huge, tensor.name))
    with pytest.raises(NotSupported, match="slopes that are finite numbers"):
        weight_slopes(wild, SAMPLES, context)


def test_channels_that_no_loss_depends_on_go_by_their_weights(tmp_path: Path, model: Path) -> None:
    """Items of zeros and a bias below it: the first layer gives nothing, whatever its weights."""
    dead = load_with_constants(model)
    for tensor in dead.graph.initializer:
        if tensor.name == "fc1.b":
            tensor.CopyFrom(numpy_helper.from_array(np.full(96, -1, np.float32), tensor.name))
        if tensor.name == "fc1.w":
            weights = numpy_helper.to_array(tensor).copy()
            weights[:, :48] *= 10
            tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
    onnx.save(dead, str(tmp_path / "dead.onnx"))
    zeros = np.zeros((40, 1, 8, 8), np.float32)
    context = context_with(tmp_path, Task.CLASSIFICATION, x=zeros, labels=classes())
    step = PruneChannels(importance="taylor", samples=SAMPLES, exclude=("fc2",))
    result = prune_channels.apply(tmp_path / "dead.onnx", step, context)
    kept = flow_of(load_with_constants(result.model)).constants["fc1.w"]
    np.testing.assert_array_equal(kept, weights[:, :48])


def test_taylor_asks_for_training_data(tmp_path: Path, model: Path) -> None:
    context = replace(step_context(tmp_path, task=Task.CLASSIFICATION), data={})
    with pytest.raises(InvalidData, match=r"name a file as data\.train in hone\.yaml"):
        prune_channels.apply(model, PruneChannels(importance="taylor"), context)
