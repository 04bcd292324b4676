"""Batch normalisation for the time of training, in graphs that were exported without it.

It is put behind every convolution as the identity (gamma = √(σ² + ε) and beta = μ of what the
convolution gives), makes training deep nets stable (Ioffe and Szegedy 2015, arXiv 1502.03167),
and is folded into the convolution again: W' = W gamma / √(σ² + ε),
b' = (b - μ) gamma / √(σ² + ε) + beta.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from optimizers.learning.items import TrainingItems
from optimizers.saving import save
from optimizers.trainable import read_trainable

_EPSILON: Final = 1e-5
_LOOKED_AT: Final = 512
"""Items whose mean and variance are taken."""

_AT_ONCE: Final = 32
_SUFFIX: Final = "_before_norm"
_PARAMETERS: Final = ("scale", "shift", "mean", "variance")


def insert_batch_norm(model: Path, items: TrainingItems, target: Path) -> int:
    """Write the model with a batch normalisation behind every convolution that has none.

    Args:
        model: Stays as it is.
        items: What the statistics are taken of.
        target: The other model, which computes the same.

    Returns:
        How many were put in; with none, nothing is written.
    """
    proto = onnx.load(str(model))
    graph = proto.graph
    convolutions = _own_convolutions(graph)
    if not convolutions:
        return 0
    outputs = [node.output[0] for node in convolutions]
    statistics = _statistics(model, items, outputs)
    nodes = []
    for node in graph.node:
        nodes.append(node)
        name = node.output[0]
        if name not in statistics:
            continue
        node.output[0] = name + _SUFFIX
        mean, variance = statistics[name]
        values = (np.sqrt(variance + _EPSILON), mean, mean, variance)
        names = [f"{name}_norm_{parameter}" for parameter in _PARAMETERS]
        graph.initializer.extend(map(numpy_helper.from_array, values, names))
        inputs = [node.output[0], *names]
        nodes.append(helper.make_node("BatchNormalization", inputs, [name], epsilon=_EPSILON))
    _replace_nodes(graph, nodes)
    save(proto, target)
    return len(convolutions)


def fold_batch_norm(model: Path, target: Path) -> None:
    """Write a model without the normalisations that `insert_batch_norm` put in."""
    proto = onnx.load(str(model))
    graph = proto.graph
    stored = {one.name: one for one in graph.initializer}
    makers = {node.output[0]: node for node in graph.node}
    nodes = []
    for node in graph.node:
        if not _was_inserted(node):
            nodes.append(node)
            continue
        convolution = makers[node.input[0]]
        arrays = [numpy_helper.to_array(stored[name]) for name in node.input[1:]]
        _fold(graph, stored, convolution, arrays)
        convolution.output[0] = node.output[0]
        for name in node.input[1:]:
            graph.initializer.remove(stored.pop(name))
    _replace_nodes(graph, nodes)
    save(proto, target)


def _own_convolutions(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Convolutions without a normalisation, with stored weights that nobody else reads."""
    reads = Counter(name for node in graph.node for name in node.input)
    stored = {one.name for one in graph.initializer} - {one.name for one in graph.input}
    normalised = {node.input[0] for node in graph.node if node.op_type == "BatchNormalization"}
    return [
        node
        for node in graph.node
        if node.op_type == "Conv"
        and node.output[0] not in normalised
        and all(name in stored and reads[name] == 1 for name in node.input[1:] if name)
    ]


def _was_inserted(node: onnx.NodeProto) -> bool:
    return node.op_type == "BatchNormalization" and node.input[0].endswith(_SUFFIX)


def _fold(
    graph: onnx.GraphProto,
    stored: dict[str, onnx.TensorProto],
    convolution: onnx.NodeProto,
    arrays: list[NDArray[np.float32]],
) -> None:
    scale, shift, mean, variance = arrays
    factor = scale / np.sqrt(variance + np.float32(_EPSILON))
    weight = stored[convolution.input[1]]
    array = numpy_helper.to_array(weight)
    folded = array * factor.reshape([-1] + [1] * (array.ndim - 1))
    weight.CopyFrom(numpy_helper.from_array(folded, weight.name))
    has_bias = len(convolution.input) > 2 and convolution.input[2]
    bias = numpy_helper.to_array(stored[convolution.input[2]]) if has_bias else 0.0
    moved = np.asarray((bias - mean) * factor + shift, np.float32)
    if has_bias:
        stored[convolution.input[2]].CopyFrom(numpy_helper.from_array(moved, convolution.input[2]))
        return
    name = f"{convolution.output[0]}_bias"
    del convolution.input[2:]
    convolution.input.append(name)
    graph.initializer.append(numpy_helper.from_array(moved, name))


def _statistics(
    model: Path, items: TrainingItems, names: list[str]
) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Mean and variance of each channel of some tensors [items, channels, ...]."""
    graph = read_trainable(model).eval()
    sums: dict[str, tuple[int, torch.Tensor, torch.Tensor]] = {}
    with torch.no_grad():
        for numbers in torch.split(torch.arange(min(_LOOKED_AT, items.count)), _AT_ONCE):
            for name, tensor in graph(items.feeds(numbers), names).items():
                values = tensor.movedim(1, 0).flatten(1).double()
                count, total, squares = sums.get(name, (0, torch.zeros(()), torch.zeros(())))
                sums[name] = (
                    count + values.shape[1],
                    total + values.sum(dim=1),
                    squares + values.square().sum(dim=1),
                )
    found = {}
    for name, (count, total, squares) in sums.items():
        mean = total / count
        variance = (squares / count - mean.square()).clamp_min(0)
        found[name] = (mean.float().numpy(), variance.float().numpy())
    return found


def _replace_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
