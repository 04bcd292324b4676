"""Shapes of a graph's tensors, and how many multiplications it takes to run it."""

from __future__ import annotations

import math

import onnx

Shape = tuple[int | None, ...]
"""Lengths of a tensor's axes; None where one is known only at run time."""


def infer_shapes(model: onnx.ModelProto) -> dict[str, Shape]:
    """Shapes of all tensors whose rank onnx can tell; shapes that an exporter wrote are not asked.

    A graph that is pruned no longer has the shapes that were written into it.
    """
    stripped = onnx.ModelProto()
    stripped.CopyFrom(model)
    del stripped.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(stripped, data_prop=True).graph
    shapes = {
        value.name: tuple(
            axis.dim_value if axis.HasField("dim_value") else None
            for axis in value.type.tensor_type.shape.dim
        )
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }
    return {**shapes, **{tensor.name: tuple(tensor.dims) for tensor in graph.initializer}}


def count_macs(model: onnx.ModelProto) -> int:
    """Multiply-accumulates of all convolutions and matrix products for one item.

    Lengths known only at run time, such as the number of items, count as 1.
    """
    shapes = infer_shapes(model)
    return sum(_macs(node, shapes) for node in model.graph.node)


def _macs(node: onnx.NodeProto, shapes: dict[str, Shape]) -> int:
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0
    reads, weight, gives = (
        shapes.get(name, ()) for name in (node.input[0], node.input[1], node.output[0])
    )
    if node.op_type == "Conv":  # every output place sums over its kernel's columns
        return _places(gives) * _places(weight[1:])
    if node.op_type == "ConvTranspose":  # every input place is spread over its kernel's columns
        return _places(reads) * _places(weight[1:])
    transposed = any(one.name == "transA" and one.i for one in node.attribute)
    return _places(gives) * _places(reads[:1] if transposed else reads[-1:])


def _places(shape: Shape) -> int:
    return math.prod(size or 1 for size in shape)
