"""Reading, changing and writing an ONNX graph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from optimizers.graph import load_named

_LARGEST_FILE: Final = 1 << 30
"""Bytes of weights that are kept in the model's own file; protobuf ends at twice as many."""


def read_model(path: Path) -> ir.Model:
    """Load a model with its weights; nodes without a name get one."""
    return ir.serde.deserialize_model(load_named(path))


def write_model(model: ir.Model, path: Path) -> Path:
    """Drop what nothing uses any more, order the nodes and write the model.

    Shapes between the nodes are left out: a step may have changed them.
    """
    common.RemoveUnusedNodesPass()(model)
    model.graph.sort()
    common.NameFixPass()(model)
    _forget_shapes(model.graph)
    weights = [value.const_value for value in model.graph.initializers.values()]
    large = sum(weight.nbytes for weight in weights if weight is not None) > _LARGEST_FILE
    ir.save(model, path, external_data=f"{path.stem}.data" if large else None)
    return path


def show(model: ir.Model, values: Sequence[ir.Value], path: Path) -> Path:
    """Write a model that gives inner floating-point values besides its outputs."""
    for value in values:
        if not value.is_graph_output() and not value.is_graph_input():
            value.type, value.shape = value.type or ir.TensorType(ir.DataType.FLOAT), None
            model.graph.outputs.append(value)
    return write_model(model, path)


def constant(value: ir.Value | None) -> NDArray[Any] | None:
    """What a value always is, if that is known: an initializer or the result of a Constant."""
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def new_constant(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    """Give the graph an initializer with this name, or one like it where the name is taken."""
    taken = {output.name for node in graph for output in node.outputs}
    taken |= {value.name for value in graph.inputs} | set(graph.initializers)
    while name in taken:
        name += "_"
    tensor = ir.tensor(np.ascontiguousarray(array), name=name)
    value = ir.Value(name=name, const_value=tensor)
    value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(array.shape)
    graph.register_initializer(value)
    return value


def only_user(value: ir.Value) -> ir.Node | None:
    """The one node that reads a value, if there is exactly one and nobody outside sees it.

    A node in a branch of an If or the body of a Loop is outside: what it reads cannot move there.
    """
    users: list[ir.Node] = [use.node for use in value.uses()]
    if len(users) != 1 or value.is_graph_output() or users[0].graph is not value.graph:
        return None
    return users[0]


def is_shared(value: ir.Value | None) -> bool:
    """Whether several nodes read a value, inside branches too, or it is an output as well."""
    return value is not None and (len(value.uses()) > 1 or value.is_graph_output())


def graph_of(node: ir.Node) -> ir.Graph:
    """The graph that a node is part of."""
    if not isinstance(node.graph, ir.Graph):
        raise TypeError(f"{node.name} is not in a graph")
    return node.graph


def insert(before: ir.Node, node: ir.Node) -> ir.Value:
    """Put a node with one result in front of another; the result."""
    graph_of(before).insert_before(before, node)
    return node.outputs[0]


def take_over(old: ir.Value, new: ir.Value) -> None:
    """Let `new` stand wherever `old` did; as an output of the model under `old`'s name."""
    if old.is_graph_output():
        new.shape, new.type = old.shape, old.type
        new.name, old.name = old.name, f"{old.name}_before"
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def integers(node: ir.Node, name: str, default: list[int]) -> list[int]:
    """A node's attribute with whole numbers."""
    attribute = node.attributes.get(name)
    return default if attribute is None else list(attribute.as_ints())


def integer(node: ir.Node, name: str, default: int) -> int:
    """A node's attribute with one whole number."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def number(node: ir.Node, name: str, default: float) -> float:
    """A node's attribute with one number."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_float()


def _forget_shapes(graph: ir.Graph) -> None:
    for node in graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
