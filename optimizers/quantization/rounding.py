"""Integer weights as floating-point ones that are rounded on the way, and back.

W = s (q - z) becomes a stored float tensor in front of a QuantizeLinear; what trains is W, what is
kept in the end is q = clip(round(W / s) + z).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

_EIGHT_BITS = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
_FLOAT = "_in_floating_point"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounded:
    """A weight that is stored in integers.

    Attributes:
        name: Of the stored integers.
        scale: s, as wide as the weight along one axis, else 1.
        zero: z, likewise.
        lowest: Smallest integer in use.
        highest: Largest integer in use.
        bits: Datatype of the integers.
    """

    name: str
    scale: NDArray[np.float32]
    zero: NDArray[Any]
    lowest: int
    highest: int
    bits: np.dtype[Any]

    @property
    def float_name(self) -> str:
        """Of the same weight in floating point."""
        return self.name + _FLOAT

    def to_float(self, integers: NDArray[Any]) -> NDArray[np.float32]:
        """S (q - z)."""
        values = (integers.astype(np.float32) - self.zero) * self.scale
        return np.asarray(values, np.float32)

    def to_integers(self, weight: NDArray[np.float32]) -> NDArray[Any]:
        """clip(round(W / s) + z), with ties to even as onnxruntime rounds."""
        rounded = np.rint(weight / self.scale) + self.zero
        return np.asarray(np.clip(rounded, self.lowest, self.highest), self.bits)

    def limits(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Between which numbers W can be stored, each as wide as `scale`."""
        low, high = ((limit - self.zero) * self.scale for limit in (self.lowest, self.highest))
        return np.asarray(low, np.float32), np.asarray(high, np.float32)


def with_float_weights(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[Rounded]]:
    """The model with each integer weight as a float one that a QuantizeLinear rounds.

    Args:
        model: Quantised by QuantizeLinear and DequantizeLinear; stays as it is.

    Returns:
        The other model, and which weights these are.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    stored = {one.name: one for one in graph.initializer}
    found: list[Rounded] = []
    quantisers = []
    for node in graph.node:
        tensor = stored.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if tensor is None or tensor.data_type not in _EIGHT_BITS:
            continue
        if any(one.name == tensor.name for one in found):
            continue
        weight = _rounded(node, tensor, stored)
        found.append(weight)
        floating = numpy_helper.from_array(
            weight.to_float(numpy_helper.to_array(tensor)), weight.float_name
        )
        quantiser = helper.make_node(
            "QuantizeLinear",
            [weight.float_name, *node.input[1:]],
            [tensor.name],
            name=f"{tensor.name}_rounded",
        )
        quantiser.attribute.extend(node.attribute)
        quantisers.append(quantiser)
        graph.initializer.append(floating)
    for weight in found:
        graph.initializer.remove(stored[weight.name])
    nodes = [*quantisers, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return changed, found


def with_integer_weights(model: onnx.ModelProto, weights: Sequence[Rounded]) -> onnx.ModelProto:
    """The model that `with_float_weights` made, perhaps trained since, with integers again."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    floating = {one.name: one for one in graph.initializer}
    for weight in weights:
        tensor = floating[weight.float_name]
        integers = weight.to_integers(numpy_helper.to_array(tensor))
        tensor.CopyFrom(numpy_helper.from_array(integers, weight.name))
    names = {weight.name for weight in weights}
    nodes = [node for node in graph.node if names.isdisjoint(node.output)]
    del graph.node[:]
    graph.node.extend(nodes)
    return changed


def _rounded(
    node: onnx.NodeProto, tensor: onnx.TensorProto, stored: dict[str, onnx.TensorProto]
) -> Rounded:
    integers = numpy_helper.to_array(tensor)
    axis = next((one.i for one in node.attribute if one.name == "axis"), 1)
    scale = _along(numpy_helper.to_array(stored[node.input[1]]), integers.ndim, axis)
    zero = np.zeros_like(scale, integers.dtype)
    if len(node.input) > 2:
        zero = _along(numpy_helper.to_array(stored[node.input[2]]), integers.ndim, axis)
    signed = np.issubdtype(integers.dtype, np.signedinteger)
    highest = int(np.abs(integers.astype(np.int32)).max()) if signed else int(integers.max())
    highest = min(highest, int(np.iinfo(integers.dtype).max))
    return Rounded(
        name=tensor.name,
        scale=scale,
        zero=zero.astype(np.int32),
        lowest=-highest if signed else 0,
        highest=highest,
        bits=integers.dtype,
    )


def _along(values: NDArray[Any], axes: int, axis: int) -> NDArray[Any]:
    if values.size == 1:
        return values.reshape([1] * axes)
    return values.reshape([-1 if one == axis % axes else 1 for one in range(axes)])
