"""Magnitude pruning: the smallest weights of convolutions and products become zero.

W' = W m with m = 0 where |W| is among the smallest. Zeros take as long to multiply by as any
other number in onnxruntime, and as many bytes until the file is compressed.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnx

from optimizers.contract.pruning import PruneWeights
from optimizers.graph import check_excluded, load_with_constants, subgraph_inputs
from optimizers.pruning.magnitude import (
    Mask,
    Weights,
    keep_largest,
    keep_largest_of_all,
    keep_pattern,
)
from optimizers.saving import save
from optimizers.step import StepContext, StepResult

_OPERATORS: Final = ("Conv", "Gemm", "MatMul")
_NO_SPEED: Final = "zeros save bytes only once the file is compressed, and no time in onnxruntime"


def apply(model: Path, step: PruneWeights, context: StepContext) -> StepResult:
    """Set the smallest weights to zero; see `optimizers.step`."""
    context.report(0.0, "reading")
    loaded = load_with_constants(model)
    nodes = [node for node in loaded.graph.node if node.op_type in _OPERATORS]
    check_excluded("prune_weights", step.exclude, [node.name for node in nodes])
    found = _weights(loaded.graph, nodes, step.exclude)
    elsewhere = _read_elsewhere(loaded.graph)
    weights = {name: value for name, value in found.items() if name not in elsewhere}
    masks = _masks(weights, nodes, step)
    notes = (*_asides(weights, masks, step), *_shared(found, elsewhere))
    zeros = sum(int((~mask & (weights[name] != 0)).sum()) for name, mask in masks.items())
    if zeros == 0:
        notes = ("no weight was set to zero", *notes)
        return context.unchanged(model, *notes)
    context.report(0.3, "setting weights to zero")
    before = _compressed(loaded)
    _set(loaded.graph, weights, masks)
    target = context.work_directory / "pruned_weights.onnx"
    save(loaded, target)
    total = sum(weights[name].size for name in masks)
    first = (
        f"set {zeros} of {total} weights of {len(masks)} tensors to zero; compressed the model "
        f"takes {before} → {_compressed(loaded)} bytes"
    )
    context.report(1.0, "pruned")
    notes = (first, _NO_SPEED, *notes)
    return StepResult(model=target, session=context.session, modified=True, notes=notes)


def _weights(
    graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto], exclude: Sequence[str]
) -> Weights:
    """Constant floating-point weights that no excluded node reads."""
    kept = {value.name for value in graph.input}
    kept |= {node.input[1] for node in nodes if node.name in exclude}
    read = {node.input[1] for node in nodes} - kept
    found = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.name in read
    }
    return {name: one for name, one in found.items() if np.issubdtype(one.dtype, np.floating)}


def _read_elsewhere(graph: onnx.GraphProto) -> set[str]:
    """Names that are read as anything but the weight of a convolution or product."""
    found = {output.name for output in graph.output}
    for node in graph.node:
        weighs = node.op_type in _OPERATORS
        found |= {name for place, name in enumerate(node.input) if not weighs or place != 1}
        found |= subgraph_inputs(node)
    return found


def _masks(
    weights: Weights, nodes: Sequence[onnx.NodeProto], step: PruneWeights
) -> dict[str, Mask]:
    """Of every weight that can be pruned as asked: where it stays."""
    if step.kept_of is not None:
        kept, block = step.kept_of
        axes = {name: _summed(nodes, name, value.ndim) for name, value in weights.items()}
        return {
            name: keep_pattern(value, axes[name], kept, block)
            for name, value in weights.items()
            if value.ndim > 1 and value.shape[axes[name][-1]] % block == 0
        }
    if step.scope == "global" and weights:
        return keep_largest_of_all(weights, step.ratio, step.norm)
    return {
        name: keep_largest(value, value.size - int(step.ratio * value.size))
        for name, value in weights.items()
    }


def _summed(nodes: Sequence[onnx.NodeProto], name: str, rank: int) -> tuple[int, ...]:
    """Axes of a weight that its first reader sums over."""
    node = next(node for node in nodes if node.input[1] == name)
    if node.op_type == "Conv":  # neighbours are input channels at the same place of the kernel
        return (*range(2, rank), 1)
    transposed = any(one.name == "transB" and one.i for one in node.attribute)
    return (1,) if transposed else (rank - 2,)


def _asides(weights: Weights, masks: dict[str, Mask], step: PruneWeights) -> tuple[str, ...]:
    found = [f"left alone as asked: {', '.join(step.exclude)}"] if step.exclude else []
    odd = [name for name in weights if name not in masks]
    if odd and step.kept_of is not None:
        found.append(
            f"left alone, its inputs are no multiple of {step.kept_of[1]}: {', '.join(odd)}"
        )
    return tuple(found)


def _shared(weights: Weights, elsewhere: set[str]) -> tuple[str, ...]:
    """A note that names the weights that other nodes need as they are, if any do."""
    names = [name for name in weights if name in elsewhere]
    return (f"left alone, other nodes read it too: {', '.join(names)}",) if names else ()


def _set(graph: onnx.GraphProto, weights: Weights, masks: dict[str, Mask]) -> None:
    for tensor in graph.initializer:
        if tensor.name in masks:
            value = weights[tensor.name]
            value = np.where(masks[tensor.name], value, np.zeros((), value.dtype))
            tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))


def _compressed(model: onnx.ModelProto) -> int:
    """Bytes of the weights, each tensor compressed by itself: all of a model but its graph."""
    arrays = (onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer)
    return sum(len(zlib.compress(array.tobytes())) for array in arrays)
