"""Training with a pull to zero, so that a cut which follows costs less.

The loss is L + λ R(W): L is the distance from the original's answers, R one of three penalties.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import onnx
import torch

from optimizers.contract.pruning import Sparsify
from optimizers.learning.items import teacher_answers, training_items
from optimizers.learning.learn import learn
from optimizers.learning.teaching import teaching
from optimizers.step import StepContext, StepResult
from optimizers.trainable import TrainableGraph, read_trainable

_SMALL: Final = 0.05
"""A weight, channel or scale below this share of its layer's largest counts as small."""


def apply(model: Path, step: Sparsify, context: StepContext) -> StepResult:
    """Train towards small weights; see `optimizers.step`.

    Raises:
        NotSupported: The graph has operators that cannot be trained.
        InvalidData: There are no training items.
    """
    items = training_items("sparsify", model, context)
    graph = read_trainable(model)
    sizes = _sizes(graph, step)
    if not sizes:
        what = "batch normalisation" if step.penalty == "bn_scale" else "weights of layers"
        note = f"the model has no {what} whose size penalty {step.penalty} could lower"
        return context.unchanged(model, note)
    before = _small_share(sizes, graph)
    of_answers = teaching(context.task, step.temperature, teacher_answers(context.original, items))

    def loss(graph: TrainableGraph, numbers: torch.Tensor) -> torch.Tensor:
        pull = torch.stack([sizes[name](graph.weight(name)).sum() for name in sizes]).sum()
        return of_answers(graph(items.feeds(numbers)), numbers) + step.strength * pull

    result = learn(
        "sparsify",
        model,
        graph,
        loss,
        items,
        context,
        training=step.training,
    )
    if not result.modified:
        return result
    note = (
        f"share of sizes below {_SMALL:.0%} of their layer's largest: {before:.1%} before, "
        f"{_small_share(sizes, graph):.1%} after"
    )
    return StepResult(
        model=result.model,
        session=result.session,
        modified=result.modified,
        notes=(*result.notes, note),
    )


Sizes = dict[str, Callable[[torch.Tensor], torch.Tensor]]
"""Weight's name → its sizes that are pulled to zero, one number each."""


def _sizes(graph: TrainableGraph, step: Sparsify) -> Sizes:
    weights = graph.weight_names()
    nodes = graph.model().graph.node
    if step.penalty == "bn_scale":
        scales = [node.input[1] for node in nodes if node.op_type == "BatchNormalization"]
        return {name: torch.abs for name in scales if name in weights}
    axes = {
        name: axis
        for node in nodes
        for name, axis in [_output_axis(node)]
        if weights.get(name) == "weight"
    }
    if step.penalty == "l1":
        return dict.fromkeys(axes, torch.abs)
    return {name: _channel_sizes(axis) for name, axis in axes.items()}


def _output_axis(node: onnx.NodeProto) -> tuple[str, int]:
    """The weight that a layer reads, and which of its axes counts output channels; "" for none."""
    if node.op_type == "Conv":
        return node.input[1], 0
    if node.op_type == "MatMul":
        return node.input[1], -1
    if node.op_type == "Gemm":
        turned = any(one.name == "transB" and one.i for one in node.attribute)
        return node.input[1], 0 if turned else 1
    return "", 0


def _channel_sizes(axis: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """√n_c ‖W_c‖₂ of every output channel c of n_c weights."""

    def sizes(weight: torch.Tensor) -> torch.Tensor:
        channels = weight.movedim(axis, 0).flatten(1)
        norms: torch.Tensor = channels.norm(dim=1) * channels.shape[1] ** 0.5
        return norms

    return sizes


def _small_share(sizes: Sizes, graph: TrainableGraph) -> float:
    small = count = 0
    with torch.no_grad():
        for name, of_weight in sizes.items():
            values = of_weight(graph.weight(name))
            small += int((values < _SMALL * values.max()).sum())
            count += values.numel()
    return small / max(1, count)
