"""MatMul and Gemm with constant weights, seen as one thing: y = x W + b."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from optimizers.structure.editing import (
    constant,
    graph_of,
    insert,
    integer,
    is_shared,
    new_constant,
    number,
    only_user,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Affine:
    """y [..., n] = x [..., m] W [m, n] + b [n].

    Attributes:
        product: The MatMul or Gemm.
        source: x.
        result: y.
        weight: W.
        bias: b, or None.
    """

    product: ir.Node
    source: ir.Value
    result: ir.Value
    weight: NDArray[Any]
    bias: NDArray[Any] | None

    @property
    def name(self) -> str:
        """The product's."""
        return self.product.name or ""

    @property
    def shares_weight(self) -> bool:
        """Whether other nodes read W too."""
        return is_shared(self.product.inputs[1])

    @property
    def macs(self) -> int:
        """Multiplications per row of x."""
        return self.weight.size


def affine_maps(graph: ir.Graph) -> list[Affine]:
    """All of a graph's, in its order."""
    found = (read_affine(node) for node in graph)
    return [affine for affine in found if affine is not None]


def read_affine(node: ir.Node | None) -> Affine | None:
    """What a MatMul (with the Add of a bias after it) or a Gemm computes; None for others."""
    if node is None or node.domain:
        return None
    if node.op_type == "MatMul":
        return _read_product(node)
    return _read_gemm(node) if node.op_type == "Gemm" else None


def write_affine(
    like: Affine, source: ir.Value, weight: NDArray[Any], bias: NDArray[Any] | None, name: str
) -> ir.Value:
    """Put a new map in front of another, made of the same operators; its result.

    Args:
        like: Where it goes, and its datatype.
        source: x [..., m].
        weight: W [m, n].
        bias: b [n] or None.
        name: Of its product.
    """
    graph, dtype = graph_of(like.product), like.weight.dtype
    inputs = [source, new_constant(graph, f"{name}.weight", weight.astype(dtype))]
    shift = None if bias is None else new_constant(graph, f"{name}.bias", bias.astype(dtype))
    if like.product.op_type == "Gemm":
        return insert(
            like.product, ir.node("Gemm", [*inputs, *([shift] if shift else [])], name=name)
        )
    result = insert(like.product, ir.node("MatMul", inputs, name=name))
    if shift is None:
        return result
    return insert(like.product, ir.node("Add", [result, shift], name=f"{name}.add"))


def _read_product(node: ir.Node) -> Affine | None:
    source, weight = node.inputs[0], _matrix(node.inputs[1])
    if source is None or weight is None or constant(source) is not None:
        return None
    add, result = only_user(node.outputs[0]), node.outputs[0]
    bias = None if add is None or add.op_type != "Add" else _added(add, result, weight.shape[1])
    if add is not None and bias is not None:
        result = add.outputs[0]
    return Affine(product=node, source=source, result=result, weight=weight, bias=bias)


def _added(add: ir.Node, result: ir.Value, width: int) -> NDArray[Any] | None:
    """The bias that an Add brings to a product's last axis."""
    other = add.inputs[1] if add.inputs[0] is result else add.inputs[0]
    value = constant(other)
    if value is None or value.ndim > 1 or value.size not in (1, width):
        return None
    return np.broadcast_to(value, (width,))


def _read_gemm(node: ir.Node) -> Affine | None:
    source, weight = node.inputs[0], _matrix(node.inputs[1])
    if (
        source is None
        or weight is None
        or integer(node, "transA", 0)
        or constant(source) is not None
    ):
        return None
    if integer(node, "transB", 0):
        weight = weight.T
    weight = _scaled(weight, number(node, "alpha", 1.0))
    bias = None
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = constant(node.inputs[2])
        if bias is None or bias.shape not in ((weight.shape[1],), (1, weight.shape[1]), (1,), ()):
            return None
        bias = np.broadcast_to(bias, (1, weight.shape[1]))[0]
        bias = _scaled(bias, number(node, "beta", 1.0))
    return Affine(product=node, source=source, result=node.outputs[0], weight=weight, bias=bias)


def _scaled(array: NDArray[Any], factor: float) -> NDArray[Any]:
    """The array itself where nothing changes: weights may be gigabytes."""
    return array if factor == 1 else array * array.dtype.type(factor)


def _matrix(value: ir.Value | None) -> NDArray[Any] | None:
    array = constant(value)
    return array if array is not None and array.ndim == 2 and array.dtype.kind == "f" else None
