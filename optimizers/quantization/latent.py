"""Float weights behind narrow ones: what training moves and what is rounded again at every step.

Every weight that is stored narrow once has one tensor of its own, W [rows, columns] for products
and the table for embeddings: the graph that trains shares what the finished one shares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper
from torch import Tensor

from optimizers.quantization.coding import Coder, straight_through
from optimizers.quantization.narrowing import Place, drop_unread
from optimizers.trainable import TrainableGraph

_READ_AT = {"MatMul": 1, "Gemm": 1, "Gather": 0}
_FOLDED = ("alpha", "transB")
"""What of a Gemm goes into its latent weight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latent:
    """A stored float tensor that stands for a narrow weight.

    Attributes:
        name: Its own.
        is_table: Whether it is W^T, as a table of rows is.
    """

    name: str
    is_table: bool

    def narrow(self, graph: TrainableGraph, code: Coder) -> Tensor:
        """The tensor as its codes stand for it; the gradient is that of the tensor."""
        tensor = graph.weight(self.name)
        if self.is_table:
            return straight_through(tensor, code)
        return straight_through(tensor.T, code).T


def with_latent_weights(
    model: onnx.ModelProto, places: Sequence[Place]
) -> tuple[onnx.ModelProto, list[Latent]]:
    """A model that computes the same, in which each narrow weight has a float tensor of its own.

    Args:
        model: Before it is narrowed; stays as it is.
        places: Which nodes will be narrow.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    taken = {*stored, *(name for node in graph.node for name in (*node.input, *node.output))}
    nodes = {node.name: node for node in graph.node}
    found: dict[object, Latent] = {}
    for place in places:
        key = place.use, place.source
        if key not in found:
            name = f"{place.source.name}_latent"
            while name in taken:
                name += "_"
            taken.add(name)
            found[key] = Latent(name=name, is_table=place.use == "embedding")
            weight = numpy_helper.to_array(stored[place.source.name])
            if place.use == "product":
                weight = np.float32(place.source.alpha) * weight
                weight = weight.T if place.source.transposed else weight
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(weight), name))
        _read(nodes[place.node], found[key].name)
    drop_unread(changed)
    return changed, list(found.values())


def _read(node: onnx.NodeProto, name: str) -> None:
    node.input[_READ_AT[node.op_type]] = name
    if node.op_type == "Gemm":
        kept = [one for one in node.attribute if one.name not in _FOLDED]
        del node.attribute[:]
        node.attribute.extend(kept)
