"""Layers in a row: a linear map, a Relu, and the map that reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import onnx_ir as ir

from optimizers.structure.affine import Affine, read_affine
from optimizers.structure.convolution import Convolution, read_convolution
from optimizers.structure.editing import only_user

_BY_CHANNEL: Final = ("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two layers with nothing but a Relu, and pooling for convolutions, between them.

    Attributes:
        first: Its units are columns of W or channels out.
        second: The only one that reads them, as rows of W or channels in.
    """

    first: Affine | Convolution
    second: Affine | Convolution


def layers(graph: ir.Graph) -> list[Affine | Convolution]:
    """All products and convolutions with constant weights, in the graph's order."""
    found = (read_affine(node) or read_convolution(node) for node in graph)
    return [layer for layer in found if layer is not None]


def pairs(graph: ir.Graph) -> list[Pair]:
    """All of a graph's, in its order."""
    found = []
    for first in layers(graph):
        second = _reader(first)
        if second is not None:
            found.append(Pair(first, second))
    return found


def relu_after(layer: Affine | Convolution) -> ir.Node | None:
    """The Relu that alone reads a layer."""
    node = only_user(layer.result)
    return node if node is not None and not node.domain and node.op_type == "Relu" else None


def _reader(first: Affine | Convolution) -> Affine | Convolution | None:
    relu = relu_after(first)
    node = None if relu is None else only_user(relu.outputs[0])
    if isinstance(first, Affine):
        return read_affine(node)
    while node is not None and not node.domain and node.op_type in _BY_CHANNEL:
        node = only_user(node.outputs[0])
    second = read_convolution(node)
    return second if second is not None and first.group == second.group == 1 else None
