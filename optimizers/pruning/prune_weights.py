"""Magnitude pruning: the smallest weights of convolutions and products become zero.

W' = W m with m = 0 where |W| is among the smallest. Zeros take as long to multiply by as any
other number in onnxruntime, and as many bytes until the file is compressed.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from optimizers.contract.pruning import PruneWeights
from optimizers.graph import check_excluded, load_with_constants
from optimizers.step import StepContext, StepResult

_OPERATORS: Final = ("Conv", "Gemm", "MatMul")
_NO_SPEED: Final = "zeros save bytes only once the file is compressed, and no time in onnxruntime"

Weights = dict[str, NDArray[Any]]
"""Names and values."""


def apply(model: Path, step: PruneWeights, context: StepContext) -> StepResult:
    """Set the smallest weights to zero; see `optimizers.step`."""
    context.report(0.0, "reading")
    loaded = load_with_constants(model)
    nodes = [node for node in loaded.graph.node if node.op_type in _OPERATORS]
    check_excluded("prune_weights", step.exclude, [node.name for node in nodes])
    weights, notes = _weights(loaded.graph, nodes, step.exclude)
    if step.kept_of is not None:
        weights, unfitting = _fitting(weights, nodes, step.kept_of[1])
        notes += unfitting
    masks = _masks(weights, nodes, step)
    zeros = sum(int((~mask & (weights[name] != 0)).sum()) for name, mask in masks.items())
    if zeros == 0:
        return StepResult(
            model=model,
            session=context.session,
            modified=False,
            notes=("no weight was set to zero", *notes),
        )
    before = _compressed(loaded)
    context.report(0.5, "setting weights to zero")
    for tensor in loaded.graph.initializer:
        if tensor.name in masks:
            value = np.where(masks[tensor.name], weights[tensor.name], 0)
            value = value.astype(weights[tensor.name].dtype)
            tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    target = context.work_directory / "pruned_weights.onnx"
    onnx.save(loaded, str(target))
    context.report(1.0, "pruned")
    total = sum(value.size for value in weights.values())
    first = (
        f"set {zeros} of {total} weights of {len(weights)} tensors to zero; compressed the model "
        f"takes {before} → {_compressed(loaded)} bytes"
    )
    return StepResult(
        model=target, session=context.session, modified=True, notes=(first, _NO_SPEED, *notes)
    )


def global_threshold(weights: Weights, ratio: float, norm: str) -> tuple[float, dict[str, float]]:
    """The size below which a weight goes when all layers are taken together.

    Each |w| is divided by its layer's norm n: the mean of |w| (l1), or its root mean square (l2).
    Otherwise layers with many inputs, whose weights are small, would lose most.

    Returns:
        The threshold for |w| / n, and n of every layer.
    """
    norms = {}
    for name, value in weights.items():
        sizes = np.abs(value.astype(np.float64))
        found = sizes.mean() if norm == "l1" else np.sqrt((sizes**2).mean())
        norms[name] = float(found) or 1.0
    every = np.concatenate([np.abs(weights[name]).reshape(-1) / norms[name] for name in weights])
    going = int(ratio * len(every))
    return float(np.partition(every, going)[going]), norms


def keep_largest(value: NDArray[Any], count: int) -> NDArray[np.bool_]:
    """True at the `count` largest sizes; the earlier of two equal ones goes first."""
    order = np.argsort(np.abs(value).reshape(-1), kind="stable")
    mask = np.ones(value.size, bool)
    mask[order[: value.size - count]] = False
    return mask.reshape(value.shape)


def keep_pattern(
    value: NDArray[Any], axes: Sequence[int], kept: int, block: int
) -> NDArray[np.bool_]:
    """True at the `kept` largest sizes of every `block` neighbours along the axes summed over.

    Args:
        value: A weight whose places along `axes` together are a multiple of `block`.
        axes: What is summed over, the fastest last.
        kept: N of N:M.
        block: M of N:M.
    """
    moved = np.moveaxis(np.abs(value), axes, range(-len(axes), 0))
    blocks = moved.reshape(-1, block)
    order = np.argsort(blocks, axis=1, kind="stable")
    mask = np.ones(blocks.shape, bool)
    np.put_along_axis(mask, order[:, : block - kept], False, axis=1)
    return np.moveaxis(mask.reshape(moved.shape), range(-len(axes), 0), axes)


def _weights(
    graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto], exclude: Sequence[str]
) -> tuple[Weights, tuple[str, ...]]:
    given = {value.name for value in graph.input}
    constants = {tensor.name: tensor for tensor in graph.initializer if tensor.name not in given}
    kept = {node.input[1] for node in nodes if node.name in exclude}
    wanted = dict.fromkeys(node.input[1] for node in nodes if node.input[1] in constants)
    found = {
        name: onnx.numpy_helper.to_array(constants[name]) for name in wanted if name not in kept
    }
    floats = {name: one for name, one in found.items() if np.issubdtype(one.dtype, np.floating)}
    return floats, ((f"left alone as asked: {', '.join(exclude)}",) if exclude else ())


def _summed(nodes: Sequence[onnx.NodeProto], name: str, rank: int) -> tuple[int, ...]:
    """Axes of a weight that its first reader sums over."""
    node = next(node for node in nodes if node.input[1] == name)
    if node.op_type == "Conv":  # neighbours are input channels at the same place of the kernel
        return (*range(2, rank), 1)
    transposed = any(one.name == "transB" and one.i for one in node.attribute)
    return (1,) if transposed else (rank - 2,)


def _fitting(
    weights: Weights, nodes: Sequence[onnx.NodeProto], block: int
) -> tuple[Weights, tuple[str, ...]]:
    fits = {
        name: value
        for name, value in weights.items()
        if value.ndim > 1 and value.shape[_summed(nodes, name, value.ndim)[-1]] % block == 0
    }
    odd = [name for name in weights if name not in fits]
    note = f"left alone, its inputs are no multiple of {block}: {', '.join(odd)}"
    return fits, ((note,) if odd else ())


def _masks(
    weights: Weights, nodes: Sequence[onnx.NodeProto], step: PruneWeights
) -> dict[str, NDArray[np.bool_]]:
    if step.kept_of is not None:
        kept, block = step.kept_of
        return {
            name: keep_pattern(value, _summed(nodes, name, value.ndim), kept, block)
            for name, value in weights.items()
        }
    if step.scope == "global" and weights:
        threshold, norms = global_threshold(weights, step.ratio, step.norm)
        return {name: np.abs(one) / norms[name] >= threshold for name, one in weights.items()}
    return {
        name: keep_largest(value, value.size - int(step.ratio * value.size))
        for name, value in weights.items()
    }


def _compressed(model: onnx.ModelProto) -> int:
    return len(zlib.compress(model.SerializeToString()))
