"""Finds consecutive layers between which a channel may be scaled without changing any answer."""

from __future__ import annotations

from collections import defaultdict
from math import prod
from typing import Final

import onnx
from onnx import numpy_helper

from optimizers.quantization.layer_pair import Pair

_PRODUCTS: Final = ("Gemm", "MatMul")
_BETWEEN_CONVOLUTIONS: Final = ("Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool")
_BETWEEN_PRODUCTS: Final = ("Relu", "Clip")
_NO_BOUND: Final = 1e30


def scalable_pairs(graph: onnx.GraphProto) -> tuple[tuple[Pair, ...], int]:
    """Every pair of layers of `graph` that may be scaled.

    Between them lies nothing, or what keeps f(s x) = s f(x) for every channel: Relu, a Clip from
    0 without an upper bound, pooling, and from a convolution to a product Flatten, or a Reshape
    that is known to do the same.

    Returns:
        The pairs in the graph's order, and how many were left out for a bounded Clip between.
    """
    found = _Finder(graph)
    if any(attribute.HasField("g") for node in graph.node for attribute in node.attribute):
        return (), 0  # a graph inside a node may read any tensor
    pairs = [found.pair(node) for node in graph.node]
    return tuple(pair for pair in pairs if pair is not None), found.bounded


class _Finder:
    def __init__(self, graph: onnx.GraphProto) -> None:
        given = {value.name for value in graph.input}
        self._constants = {one.name: one for one in graph.initializer if one.name not in given}
        self._outputs = {value.name for value in graph.output}
        self._shapes = {
            value.name: [size.dim_value for size in value.type.tensor_type.shape.dim]
            for value in graph.value_info
        }
        self._users: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self._users[name].append(node)
        self.bounded = 0

    def pair(self, first: onnx.NodeProto) -> Pair | None:
        """The pair that begins with this node, None if there is none."""
        if not self._is_layer(first):
            return None
        passed, second, is_bounded = self._follow(first)
        if second is None or not _fits(first, passed, second):
            return None
        channels = self._shape(first)[0 if _outputs_lead(first) else 1]
        group = int(_attribute(second, "group", 1))
        bias = first.input[2] if len(first.input) > 2 else ""
        if not self._may_scale_bias(bias, channels) or not self._takes(second, channels, group):
            return None
        if is_bounded:
            self.bounded += 1
            return None
        return Pair(
            first=first.input[1],
            bias=bias,
            second=second.input[1],
            first_is_transposed=not _outputs_lead(first),
            second_is_transposed=not _outputs_lead(second),
            channels=channels,
            group=group,
        )

    def _follow(self, first: onnx.NodeProto) -> tuple[list[str], onnx.NodeProto | None, bool]:
        """Operators passed on the way to the next layer, the layer, and whether a Clip bounds."""
        passed: list[str] = []
        is_bounded = False
        value = first.output[0]
        while value not in self._outputs and len(self._users[value]) == 1:
            [node] = self._users[value]
            if self._is_layer(node) and node.input[0] == value:
                return passed, node, is_bounded
            if len(node.output) != 1 or node.input[0] != value or _attribute(node, "axis", 1) != 1:
                break
            passed.append("Flatten" if self._is_flatten(node) else node.op_type)
            is_bounded = is_bounded or (node.op_type == "Clip" and not self._is_relu(node))
            value = node.output[0]
        return passed, None, is_bounded

    def _is_layer(self, node: onnx.NodeProto) -> bool:
        """Whether it has a weight of its own, in 32-bit floats, that no other node reads."""
        if node.op_type not in ("Conv", *_PRODUCTS) or not self._is_own(node.input[1]):
            return False
        if node.op_type == "Conv":
            return True
        return len(self._shape(node)) == 2 and not _attribute(node, "transA", 0)

    def _is_own(self, name: str) -> bool:
        tensor = self._constants.get(name)
        is_float = tensor is not None and tensor.data_type == onnx.TensorProto.FLOAT
        return is_float and len(self._users[name]) == 1 and name not in self._outputs

    def _shape(self, node: onnx.NodeProto) -> list[int]:
        return list(self._constants[node.input[1]].dims)

    def _may_scale_bias(self, name: str, channels: int) -> bool:
        if not name:
            return True
        if not self._is_own(name):
            return False
        shape = self._constants[name].dims
        return bool(shape) and shape[-1] == prod(shape) == channels

    def _takes(self, second: onnx.NodeProto, channels: int, group: int) -> bool:
        shape = self._shape(second)
        if second.op_type == "Conv":
            return shape[1] * group == channels
        return shape[1 if _outputs_lead(second) else 0] % channels == 0

    def _is_flatten(self, node: onnx.NodeProto) -> bool:
        """Whether a Reshape keeps the items apart and joins all of one, as exporters write it."""
        if node.op_type != "Reshape" or node.input[1] not in self._constants:
            return node.op_type == "Flatten"
        wanted = numpy_helper.to_array(self._constants[node.input[1]]).tolist()
        of_one = self._shapes.get(node.input[0], [])[1:]
        return len(wanted) == 2 and 0 not in of_one and bool(of_one) and wanted[1] == prod(of_one)

    def _is_relu(self, clip: onnx.NodeProto) -> bool:
        low, high = (self._number(clip, index) for index in (1, 2))
        return low == 0 and (high is None or high > _NO_BOUND)

    def _number(self, node: onnx.NodeProto, index: int) -> float | None:
        """A constant input; None where it is left out, a NaN where it is computed."""
        name = node.input[index] if len(node.input) > index else ""
        if not name:
            return None
        tensor = self._constants.get(name)
        return float(numpy_helper.to_array(tensor)) if tensor is not None else float("nan")


def _fits(first: onnx.NodeProto, passed: list[str], second: onnx.NodeProto) -> bool:
    """Whether channels stay apart on the way: they lie on axis 1 of pictures, last in products."""
    if first.op_type != "Conv":
        return second.op_type != "Conv" and all(name in _BETWEEN_PRODUCTS for name in passed)
    if second.op_type == "Conv":
        return all(name in _BETWEEN_CONVOLUTIONS for name in passed)
    return (
        passed.count("Flatten") == 1
        and passed[-1] == "Flatten"
        and all(name in _BETWEEN_CONVOLUTIONS for name in passed[:-1])
    )


def _outputs_lead(node: onnx.NodeProto) -> bool:
    """Whether the weight is [outputs, inputs ...] and not [inputs, outputs]."""
    return node.op_type == "Conv" or bool(_attribute(node, "transB", 0))


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(one.i) for one in node.attribute if one.name == name), default)
