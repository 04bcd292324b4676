"""What a model is made of, as far as its file tells: layers, weights, tables."""

from __future__ import annotations

from collections import Counter
from typing import Final

import onnx

from optimizers.saving import number_bits, size_bytes

_LAYERS: Final = ("Conv", "Gemm", "MatMul")
_LOOK_UPS: Final = ("Gather", "GatherBlockQuantized")
_FORMS: Final = ("Cast", "DequantizeLinear", "Identity", "Transpose")
_MATRIX: Final = 2
_FLOAT_BITS: Final = 32
_NO_WEIGHTS: Final = (
    *(onnx.TensorProto.BOOL, onnx.TensorProto.STRING),
    *(onnx.TensorProto.INT32, onnx.TensorProto.INT64),
)


def constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """All that is stored, by its name and those of what is read from it in another form."""
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in _FORMS and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found


def layer_nodes(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """The convolutions and matrix products whose second input is constant, by name, in order."""
    stored = constants(graph)
    return {
        node.name: node
        for node in graph.node
        if node.op_type in _LAYERS and not node.domain and node.input[1] in stored
    }


def groups_of(node: onnx.NodeProto) -> int:
    """Parts that a convolution splits its channels into; 1 for other nodes."""
    return next((int(one.i) for one in node.attribute if one.name == "group"), 1)


def weight_bytes_by_operator(graph: onnx.GraphProto) -> dict[str, int]:
    """Operator → bytes of the constants that its nodes read, each counted once."""
    stored = constants(graph)
    read: dict[str, set[str]] = {}
    for node in graph.node:
        names = {stored[name].name for name in node.input if name in stored}
        read.setdefault(node.op_type, set()).update(names)
    return {
        operator: sum(size_bytes(stored[name]) for name in names)
        for operator, names in read.items()
    }


def embedding_bytes(graph: onnx.GraphProto) -> int:
    """Of all matrices that a node looks rows up in, each counted once."""
    stored = constants(graph)
    tables = {
        stored[node.input[0]].name
        for node in graph.node
        if node.op_type in _LOOK_UPS
        and node.input[0] in stored
        and len(stored[node.input[0]].dims) == _MATRIX
    }
    return sum(size_bytes(stored[name]) for name in tables)


def weight_bits(graph: onnx.GraphProto) -> int:
    """Bits of one number, in the width that most bytes of weights have; 32 without weights.

    Numbers that only say shapes and places are not looked at.
    """
    stored: Counter[int] = Counter()
    for tensor in graph.initializer:
        if tensor.data_type not in _NO_WEIGHTS:
            stored[number_bits(tensor)] += size_bytes(tensor)
    return max(stored, key=lambda bits: stored[bits], default=_FLOAT_BITS)
