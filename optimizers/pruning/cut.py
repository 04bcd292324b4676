"""Takes channels out of a graph: constants lose places, and literal widths are set anew."""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from optimizers.graph import opset
from optimizers.pruning.flow.elements import Labels
from optimizers.pruning.flow.use import Flow, Repair

_SPLIT_BY_INPUT: Final = 13
"""The first operator set in which Split's sizes are an input instead of an attribute."""


def kept_places(flow: Flow, removed: Labels) -> dict[tuple[str, int], NDArray[np.bool_]]:
    """(constant, axis) → which places stay, for every axis that loses some.

    Args:
        flow: The channels of the model.
        removed: Roots of the channels that go.
    """
    stays = ~np.isin(flow.elements.all_roots(), removed)
    found = {
        (name, axis): stays[labels]
        for name in flow.constants
        for axis, labels in enumerate(flow.axes[name])
        if labels is not None
    }
    return {key: places for key, places in found.items() if not places.all()}


def cut(model: onnx.ModelProto, flow: Flow, removed: Labels) -> onnx.ModelProto:
    """A copy of a model without some channels.

    Args:
        model: The one that `flow` was found in.
        flow: Its channels.
        removed: Roots of the channels that go.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.value_info[:]  # they name the widths as they were
    for node in result.graph.node:  # an exporter's notes on its source, a quarter of a small file
        del node.metadata_props[:]
    del result.graph.metadata_props[:]
    values = dict(flow.constants)
    for (name, axis), places in kept_places(flow, removed).items():
        values[name] = np.compress(places, values[name], axis=axis)
    for tensor in result.graph.initializer:
        value = values.get(tensor.name)  # none for one that callers may replace
        if value is not None and value.shape != tuple(tensor.dims):
            tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    stays = ~np.isin(flow.elements.all_roots(), removed)
    for repair in sorted(flow.repairs, key=lambda one: -one.node):  # some put a node before theirs
        _repair(result, flow, repair, stays)
    return result


def _repair(model: onnx.ModelProto, flow: Flow, repair: Repair, stays: NDArray[np.bool_]) -> None:
    widths = [None if one is None else int(stays[one].sum()) for one in repair.axes]
    node = model.graph.node[repair.node]
    if node.op_type == "Conv":
        _set(node, "group", widths[0])
    elif node.op_type == "Split" and opset(model) < _SPLIT_BY_INPUT:
        _set(node, "split", widths)
    elif node.op_type == "Split":
        _drop(node, "num_outputs")
        _give(model.graph, node, np.array(widths, np.int64))
    elif node.op_type == "Reshape":
        _reshape(model.graph, flow, repair.node, widths)


def _reshape(graph: onnx.GraphProto, flow: Flow, index: int, widths: list[int | None]) -> None:
    """Set some numbers of a shape anew, which may be computed at run time."""
    node = graph.node[index]
    wanted, known = node.input[1], flow.constants.get(node.input[1])
    stays = np.array([width is None for width in widths])
    numbers = np.array([width or 0 for width in widths], np.int64)
    if known is not None:
        _give(graph, node, np.where(stays, known, numbers))
        return
    _give(graph, node, numbers)
    chosen, mask = f"{node.output[0]}_shape", f"{node.output[0]}_stays"
    graph.initializer.append(onnx.numpy_helper.from_array(stays, mask))
    where = onnx.helper.make_node("Where", [mask, wanted, node.input[1]], [chosen], name=chosen)
    node.input[1] = chosen
    graph.node.insert(index, where)


def _set(node: onnx.NodeProto, name: str, value: int | list[int | None] | None) -> None:
    _drop(node, name)
    node.attribute.append(onnx.helper.make_attribute(name, value))


def _drop(node: onnx.NodeProto, name: str) -> None:
    left = [one for one in node.attribute if one.name != name]
    del node.attribute[:]
    node.attribute.extend(left)


def _give(graph: onnx.GraphProto, node: onnx.NodeProto, value: NDArray[np.int64]) -> None:
    """Make this the node's second input; others may still read the former one."""
    name = f"{node.output[0]}_widths"
    graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    del node.input[1:]
    node.input.append(name)
