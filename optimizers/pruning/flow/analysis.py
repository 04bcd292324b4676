"""Follows every channel through a graph: what has to go together, and what has to stay.

Every place along every axis of a constant is an element. Operators tie elements: a Conv ties its
weight's columns to the channels it reads, and gives its weight's rows as channels to the next; an
Add ties both sides (DepGraph, Fang et al. 2023, arXiv 2301.12900). Elements tied to something
that must keep its width are frozen, and so is whatever reaches an operator that is not understood.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from optimizers.graph import opset, subgraph_inputs
from optimizers.pruning.flow.lengths import follow_lengths
from optimizers.pruning.flow.operators import HANDLERS
from optimizers.pruning.flow.stand_ins import stand_in_shapes
from optimizers.pruning.flow.use import Axes, Flow, Refused, Shape, Use


def analyse(model: onnx.ModelProto, exclude: Sequence[str] = ()) -> Flow:
    """Follow the channels of a model.

    Args:
        model: With names for its nodes and its constants as initializers.
        exclude: Names of nodes whose output channels stay.
    """
    flow = _start(model, *stand_in_shapes(model))
    for index, node in enumerate(model.graph.node):
        _follow(flow, index, node, keep=node.name in exclude)
    for output in model.graph.output:
        flow.freeze(output.name, f"they are the model's output {output.name}")
    return flow


def _start(model: onnx.ModelProto, shapes: dict[str, Shape], other: dict[str, Shape]) -> Flow:
    graph = model.graph
    replaceable = {one.name for one in graph.input}
    constants = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.name not in replaceable
    }
    known = {name: value.shape for name, value in constants.items()}
    flow = Flow(
        constants=constants,
        shapes={**shapes, **known},
        other_shapes=other,
        readers=_readers(graph),
        read=_read(graph),
        opset=opset(model),
    )
    for name, value in constants.items():
        flow.axes[name] = _elements(flow, value)
    return flow


def _readers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def _read(graph: onnx.GraphProto) -> frozenset[str]:
    names = {output.name for output in graph.output}
    for node in graph.node:
        names |= {*node.input, *subgraph_inputs(node)}
    return frozenset(names - {""})


def _elements(flow: Flow, value: NDArray[Any]) -> Axes:
    """One for every place along axes longer than 1 of floating-point constants."""
    if not np.issubdtype(value.dtype, np.floating):
        return (None,) * value.ndim
    return tuple(flow.elements.fresh(size) if size > 1 else None for size in value.shape)


def _follow(flow: Flow, index: int, node: onnx.NodeProto, *, keep: bool) -> None:
    use = Use(flow, index, node)
    outputs = _outputs(use)
    use.freeze_rest()
    for name in subgraph_inputs(node):
        flow.freeze(name, f"they reach the inner graph of {node.name}")
    for name, axes in zip(node.output, outputs, strict=False):
        flow.axes[name] = axes
        if keep:
            flow.freeze(name, f"{node.name} is to be left alone")


def _outputs(use: Use) -> list[Axes]:
    is_standard = use.node.domain in ("", "ai.onnx")
    handler = HANDLERS.get(use.node.op_type) if is_standard else None
    try:
        if is_standard and (lengths := follow_lengths(use)) is not None:
            use.flow.lengths[use.node.output[0]] = lengths
            return []
        if handler is None:
            raise Refused("is an operator that is not understood here")
        outputs = handler(use)
        if use.flow.read.intersection(use.node.output[len(outputs) :]):
            raise Refused("gives a further output that is read")
        return outputs
    except Refused as refused:
        use.refuse(str(refused))
    except (ValueError, IndexError):
        use.refuse("does not fit what is known of its inputs")
    return []
