"""Gives a converted graph the names its callers use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_ir as ir

from optimizers.contract.errors import InvalidModel


def name_tensors(graph: ir.Graph, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Name the inputs and outputs of `graph`, in order.

    The exporter appends to a name that something else has already, and an output that hands on an
    input has the input's name; so whatever stands in the way is renamed, and an output that is an
    input, a weight, or an output already becomes a copy of it.

    Raises:
        InvalidModel: The names are not one for each tensor, or not different ones.
    """
    if len(inputs) != len(graph.inputs) or len(outputs) != len(graph.outputs):
        raise InvalidModel(
            f"the converted model has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs; "
            f"expected {len(inputs)} and {len(outputs)}"
        )
    names = [*inputs, *outputs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidModel(
            f"{', '.join(twice)} would name two tensors; give the outputs other names in the "
            "config.pbtxt, in order"
        )
    _copy_outputs(graph)
    ends = [*graph.inputs, *graph.outputs]
    _make_way(graph, set(names), ends)
    for value, name in zip(ends, names, strict=True):
        value.name = name


def _copy_outputs(graph: ir.Graph) -> None:
    seen: set[int] = set()
    for index, value in enumerate(graph.outputs):
        if value.producer() is None or id(value) in seen:
            copy = ir.node("Identity", [value])
            graph.append(copy)
            output = copy.outputs[0]
            output.shape, output.type = value.shape, value.type
            graph.outputs[index] = output
        seen.add(id(graph.outputs[index]))


def _make_way(graph: ir.Graph, names: set[str], ends: Sequence[ir.Value]) -> None:
    """Rename what has one of `names`, and the inputs and outputs, to names nobody has."""
    taken = {value.name for value in _values(graph)} | names
    initializers = list(graph.initializers.values())
    is_end = {id(value) for value in ends}
    for value in [*_values(graph), *ends]:
        if value.name not in names and id(value) not in is_end:
            continue
        number = 0
        while (other := f"{value.name}_{number}") in taken:
            number += 1
        taken.add(other)
        value.name = other
    graph.initializers.clear()
    for value in initializers:
        graph.initializers.add(value)


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph.all_nodes():
        yield from node.outputs
