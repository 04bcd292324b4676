"""One stored tensor a weight: exporters merge tensors that happen to be equal.

A zero bias or a norm's ones stand in the file once for many layers; training that tensor would tie
the layers. A kernel, matrix or table that several nodes read is shared on purpose (the embedding
that is also the last layer) and stays so, unless all its elements are the same.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import numpy_helper

from optimizers.trainable.weights import find_reads


def untie(graph: onnx.GraphProto) -> dict[str, str]:
    """Give every reader of a merged weight its own copy; changes the graph, not what it computes.

    Returns:
        The name of each new tensor → the one that it is a copy of.
    """
    tensors = {one.name: one for one in graph.initializer}
    merged = {read.name for read in find_reads(graph) if _merged(tensors[read.name])}
    declared = {one.name: one for one in graph.input}
    copies: dict[str, str] = {}
    seen: set[str] = set()
    for node, position in _reads(graph):
        name = node.input[position]
        if name not in merged:
            continue
        if name in seen:
            fresh = _fresh(name, {*tensors, *copies, *_made(graph)})
            copies[fresh] = name
            node.input[position] = fresh
        seen.add(name)
    for fresh, name in copies.items():
        tensor = graph.initializer.add()
        tensor.CopyFrom(tensors[name])
        tensor.name = fresh
        if name in declared:
            value = graph.input.add()
            value.CopyFrom(declared[name])
            value.name = fresh
    return copies


def _merged(tensor: onnx.TensorProto) -> bool:
    array = numpy_helper.to_array(tensor)
    return sum(length > 1 for length in array.shape) <= 1 or bool((array == array.flat[0]).all())


def _reads(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, int]]:
    for node in graph.node:
        for position in range(len(node.input)):
            yield node, position


def _made(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield from node.output
    yield from (one.name for one in graph.input)


def _fresh(name: str, taken: set[str]) -> str:
    number = 2
    while f"{name}_{number}" in taken:
        number += 1
    return f"{name}_{number}"
