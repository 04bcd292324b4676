"""Attention of several heads: softmax(Q K^T) V, with products that a Reshape parts into heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from optimizers.structure.affine import Affine, affine_maps, read_affine, write_affine
from optimizers.structure.editing import (
    graph_of,
    insert,
    new_constant,
    only_user,
    take_over,
)

_IN_BETWEEN: Final = ("Add", "Div", "Mul", "Transpose")


@dataclass(frozen=True, slots=True)
class Parted:
    """A product whose result is parted into heads.

    Attributes:
        product: Gives [items, tokens, heads * width].
        reshape: Gives [items, tokens, heads, width].
    """

    product: Affine
    reshape: ir.Node


@dataclass(frozen=True, slots=True)
class Attention:
    """softmax(Q K^T) V.

    Attributes:
        parted: Q, K and V.
        join: The Reshape that makes [items, tokens, heads * width] of all heads.
        out: The product that reads them.
    """

    parted: tuple[Parted, Parted, Parted]
    join: ir.Node
    out: Affine

    @property
    def name(self) -> str:
        """The name of the product at the end."""
        return self.out.name


def attentions(graph: ir.Graph) -> list[Attention]:
    """All of a graph's, in its order."""
    made = {affine.result: affine for affine in affine_maps(graph)}
    found = (_read(node, made) for node in graph if node.op_type == "Softmax")
    return [attention for attention in found if attention is not None]


def columns(heads: Sequence[int], width: int) -> NDArray[np.int64]:
    """Which numbers of [heads * width] belong to these heads."""
    return np.concatenate([np.arange(head * width, (head + 1) * width) for head in heads])


def keep_heads(attention: Attention, heads: Sequence[int], width: int) -> None:
    """Make an attention out of some of its heads, in place."""
    kept = columns(heads, width)
    for part in attention.parted:
        product = part.product
        bias = None if product.bias is None else product.bias[kept]
        weight = product.weight[:, kept]
        narrow = write_affine(product, product.source, weight, bias, product.name)
        parted = _reshape(part.reshape, narrow, [0, 0, len(heads), width])
        take_over(part.reshape.outputs[0], parted)
    joined = _reshape(attention.join, attention.join.inputs[0], [0, 0, len(kept)])
    out = attention.out
    take_over(out.result, write_affine(out, joined, out.weight[kept], out.bias, out.name))


def silence_heads(attention: Attention, heads: Sequence[int], width: int) -> None:
    """Let an attention keep all its heads, some of which add nothing, in place."""
    out = attention.out
    weight = out.weight.copy()
    weight[columns(heads, width)] = 0
    take_over(out.result, write_affine(out, out.source, weight, out.bias, out.name))


def _reshape(before: ir.Node, source: ir.Value | None, shape: list[int]) -> ir.Value:
    name = f"{before.name}.heads"
    wanted = new_constant(graph_of(before), f"{name}.shape", np.array(shape, np.int64))
    return insert(before, ir.node("Reshape", [source, wanted], name=name))


def _read(softmax: ir.Node, made: dict[ir.Value, Affine]) -> Attention | None:
    mix = only_user(softmax.outputs[0])
    scores = _back(softmax.inputs[0], "MatMul")
    if mix is None or mix.op_type != "MatMul" or scores is None:
        return None
    order = only_user(mix.outputs[0])
    join = (
        only_user(order.outputs[0]) if order is not None and order.op_type == "Transpose" else None
    )
    out = read_affine(only_user(join.outputs[0])) if join and join.op_type == "Reshape" else None
    parts = [_parted(value, made) for value in (*scores.inputs, mix.inputs[1])]
    found = [part for part in parts if part is not None]
    if join is None or out is None or len(found) != 3:
        return None
    return Attention((found[0], found[1], found[2]), join, out)


def _parted(value: ir.Value | None, made: dict[ir.Value, Affine]) -> Parted | None:
    """The Reshape of a product's result, past scales, masks, Transposes and later Reshapes."""
    reshape = _back(value, "Reshape")
    while reshape is not None:
        source = reshape.inputs[0]
        if source in made and only_user(source) is reshape:
            return Parted(made[source], reshape)
        reshape = _back(source, "Reshape")
    return None


def _back(value: ir.Value | None, operator: str) -> ir.Node | None:
    """The nearest node of an operator before a value, past scales, masks and Transposes."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type in _IN_BETWEEN and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node if node is not None and node.op_type == operator else None
