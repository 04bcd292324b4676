"""Keeps a node that was left in floating point from becoming integers when the model is opened.

onnxruntime quantises the float weight of a Conv, ConvTranspose or Gemm by itself, with one scale,
where a DequantizeLinear comes before and a QuantizeLinear after it (WeightBiasQuantization). It
does so only if that DequantizeLinear has a single scale; one with a scale for every channel, all
of them the same, gives the same numbers and is left alone.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from optimizers.saving import save

_TAKEN: Final = ("Conv", "ConvTranspose", "Gemm")
_FIRST_OPSET_WITH_AXIS: Final = 13


def keep_floating(model: Path) -> int:
    """Let every float Conv, ConvTranspose and Gemm of an int8 model read its input per channel.

    Args:
        model: Written to in place.

    Returns:
        How many nodes would have become integers otherwise.
    """
    loaded = onnx.load(str(model))
    opset = next(one.version for one in loaded.opset_import if one.domain in ("", "ai.onnx"))
    if opset < _FIRST_OPSET_WITH_AXIS:
        return 0
    graph = loaded.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    kept = 0
    for node in list(graph.node):
        weight = stored.get(node.input[1]) if node.op_type in _TAKEN else None
        maker = makers.get(node.input[0]) if weight is not None else None
        if weight is None or maker is None or maker.op_type != "DequantizeLinear":
            continue
        if not all(_is_one_number(stored.get(name)) for name in maker.input[1:]):
            continue
        _read_per_channel(graph, node, maker, stored, _input_channels(node, weight))
        kept += 1
    if kept:
        _drop_unread(graph)
        save(loaded, model)
    return kept


def _is_one_number(tensor: onnx.TensorProto | None) -> bool:
    return tensor is not None and all(size == 1 for size in tensor.dims)


def _read_per_channel(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    maker: onnx.NodeProto,
    stored: dict[str, onnx.TensorProto],
    channels: int,
) -> None:
    names = [maker.input[0]]
    for name in maker.input[1:]:
        value = numpy_helper.to_array(stored[name])
        names.append(f"{name}_of_{node.name}")
        repeated = np.full(channels, value.reshape(-1)[0], value.dtype)
        graph.initializer.append(numpy_helper.from_array(repeated, names[-1]))
    value_name = f"{maker.output[0]}_of_{node.name}"
    reading = helper.make_node(
        "DequantizeLinear", names, [value_name], name=f"{maker.name}_of_{node.name}", axis=1
    )
    node.input[0] = value_name
    graph.node.insert(list(graph.node).index(node), reading)


def _input_channels(node: onnx.NodeProto, weight: onnx.TensorProto) -> int:
    attributes = {one.name: one.i for one in node.attribute}
    if node.op_type == "Conv":
        return int(weight.dims[1] * attributes.get("group", 1))
    is_transposed = node.op_type == "Gemm" and attributes.get("transB", 0)
    return int(weight.dims[1 if is_transposed else 0])


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Remove conversions that nothing reads any more."""
    read = Counter(name for node in graph.node for name in node.input)
    read.update(value.name for value in graph.output)
    for node in list(graph.node):
        if node.op_type == "DequantizeLinear" and not read[node.output[0]]:
            graph.node.remove(node)
