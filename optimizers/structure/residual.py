"""Residual blocks of a graph: y = x + f(x), where f has weights."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import onnx_ir as ir

from optimizers.structure.affine import affine_maps
from optimizers.structure.convolution import convolutions
from optimizers.structure.editing import insert, take_over


@dataclass(frozen=True, slots=True)
class Block:
    """y = x + f(x).

    Attributes:
        add: The Add.
        skip: Which of its inputs is x, 0 or 1.
    """

    add: ir.Node
    skip: int

    @property
    def name(self) -> str:
        """The Add's."""
        return self.add.name or ""

    @property
    def source(self) -> ir.Value:
        """What x is at present; it changes when the block before is left out."""
        value = self.add.inputs[self.skip]
        if value is None:
            raise TypeError(f"{self.name} lacks an input")
        return value

    @property
    def result(self) -> ir.Value:
        """What x + f(x) is at present, y."""
        return self.add.outputs[0]


def residual_blocks(graph: ir.Graph) -> list[Block]:
    """All of a graph's, in its order.

    x + 0.04 x^3 inside an activation is none: there is no weight between x and the sum.
    """
    weighed = {affine.product for affine in affine_maps(graph)}
    weighed |= {convolution.node for convolution in convolutions(graph)}
    order = {node: place for place, node in enumerate(graph)}
    found = []
    for node in graph:
        if node.op_type != "Add" or node.domain:
            continue
        skips = [skip for skip in (0, 1) if _is_around_weights(order, node, skip, weighed)]
        found += [Block(node, skip) for skip in skips]
    return found


def leave_out(block: Block) -> None:
    """Let x stand where y did."""
    source = block.source
    if block.result.is_graph_output():
        source = insert(block.add, ir.node("Identity", [source], name=f"{block.name}.skipped"))
    take_over(block.result, source)


def _is_around_weights(
    order: dict[ir.Node, int], add: ir.Node, skip: int, weighed: set[ir.Node]
) -> bool:
    """Whether one input of an Add goes through a weighed node into the other.

    Only nodes between the first that reads it and the Add are looked at: graphs may have many.
    """
    source, other = add.inputs[skip], add.inputs[1 - skip]
    if source is None or other is None:
        return False
    first = min(order[use.node] for use in source.uses() if use.node in order)
    reached = {source: False}
    for node in islice(order, first, order[add]):
        given = [reached[value] for value in node.inputs if value in reached]
        if given:
            reached |= dict.fromkeys(node.outputs, node in weighed or any(given))
    return reached.get(other, False)
