"""Stored tensors in one form, wherever an exporter put them."""

from __future__ import annotations

import onnx

from optimizers.trainable.weights import FLOATS

_OLDEST_WITH_OWN_TENSORS = 4
"""First version of the format in which a stored tensor need not be an input too."""


def gather_stored(model: onnx.ModelProto) -> None:
    """Let every float tensor be stored with the graph, and be read by those who compute with it.

    Constant nodes become stored tensors, and an Identity of a stored tensor goes.
    """
    if model.ir_version >= _OLDEST_WITH_OWN_TENSORS:
        _store_constants(model.graph)
    _drop_identities(model.graph)


def _store_constants(graph: onnx.GraphProto) -> None:
    for node in list(graph.node):
        if node.op_type != "Constant" or node.attribute[0].name != "value":
            continue
        value = node.attribute[0].t
        if value.data_type in FLOATS and sum(length > 1 for length in value.dims):
            tensor = graph.initializer.add()
            tensor.CopyFrom(value)
            tensor.name = node.output[0]
            graph.node.remove(node)


def _drop_identities(graph: onnx.GraphProto) -> None:
    stored = {one.name for one in graph.initializer}
    kept = {one.name for one in graph.output}
    names: dict[str, str] = {}
    for node in list(graph.node):
        for position, name in enumerate(node.input):
            node.input[position] = names.get(name, name)
        if node.op_type == "Identity" and node.input[0] in stored and node.output[0] not in kept:
            names[node.output[0]] = node.input[0]
            graph.node.remove(node)
