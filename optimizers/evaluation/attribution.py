"""Which nodes of a model stand behind those that the runtime made of them.

The runtime runs another graph than was delivered: a convolution takes its activation and the
addition after it along, moves to a layout of channels in blocks, gets a new name, and has
ReorderInput and ReorderOutput around it. To profile it without all this would keep the names, and
measure another model: blocked convolutions take half the time. So what serves is profiled, and
its nodes are led back to the model's by what survives: their names, the weights that they read, and
the names of what they give.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

import onnx

from optimizers.evaluation.parts import constants

_PRODUCTS: Final = ("Conv", "Gemm", "MatMul")
"""What the names of all operators that multiply by weights contain."""

_BLOCKED: Final = re.compile(r"_nchwc(_token_\d+)?$")
"""Ends the name of a node in the blocked layout, which begins with the name of what it gave."""

_CAST: Final = re.compile(r"^Inserted(PrecisionFree)?Cast_")
"""Begins the name of what the runtime computes in another precision than the model says."""

_REORDERS: Final = ("ReorderInput", "ReorderOutput", "Transpose")
"""Changes of layout, where the model has none of its own."""


class Attribution:
    """Leads nodes that ran back to nodes of the model."""

    def __init__(
        self, model: onnx.GraphProto, ran: onnx.GraphProto, layers: Collection[str]
    ) -> None:
        """Compare two graphs.

        Args:
            model: As delivered, every node with a name.
            ran: As the runtime runs it.
            layers: Names of the model's convolutions and products with constant weights.
        """
        self._nodes = {node.name: node for node in model.node}
        self._operators = {node.op_type for node in model.node}
        self._makers = {name: node for node in model.node for name in node.output if name}
        self._layers = frozenset(layers)
        self._ran = {node.name: node for node in ran.node if node.name}
        readers: dict[str, list[str]] = {}
        stored = constants(model)
        for name in layers:
            readers.setdefault(stored[self._nodes[name].input[1]].name, []).append(name)
        self._reader = {read: names[0] for read, names in readers.items() if len(names) == 1}

    def layer(self, name: str, operator: str) -> str | None:
        """The layer that a node which ran computes; None for other nodes.

        Args:
            name: The node's.
            operator: The node's.
        """
        if not _is_product(operator):
            return None
        if name in self._layers:
            return name
        node = self._ran.get(name)
        if node is not None:
            read = [self._reader[one] for one in node.input if one in self._reader]
            if len(read) == 1:
                return read[0]
        for given in self._given(name):
            found = self._nearest_layer(given)
            if found is not None:
                return found
        return None

    def operator(self, name: str, operator: str) -> str:
        """What the model as delivered calls the work of a node which ran.

        A fused node is its layer's, if it computes one, and else what gives its result. Changes of
        layout are the convolutions', without which there would be none.

        Args:
            name: The node's.
            operator: The node's.
        """
        layer = self.layer(name, operator)
        if layer is not None or name in self._nodes:
            return str(self._nodes[layer or name].op_type)
        plain = operator.removeprefix("Fused")
        if plain in self._operators:
            return plain
        if operator in _REORDERS and "Conv" in self._operators:
            return "Conv"
        makers = [self._makers[given] for given in self._given(name) if given in self._makers]
        return str(makers[0].op_type) if makers else plain

    def _given(self, name: str) -> list[str]:
        """Names of the model's tensors that a node which ran may have given."""
        node = self._ran.get(name)
        names = [*(node.output if node is not None else ()), _BLOCKED.sub("", name)]
        return [_CAST.sub("", one) for one in names]

    def _nearest_layer(self, tensor: str) -> str | None:
        """The layer from which a tensor comes by the fewest nodes, none of them a product."""
        level, seen = [tensor], {tensor}
        while level:
            makers = [self._makers[name] for name in level if name in self._makers]
            found = [node.name for node in makers if node.name in self._layers]
            if found:
                return str(found[0])
            if any(_is_product(node.op_type) for node in makers):
                return None
            before = dict.fromkeys(name for node in makers for name in node.input)
            level = [name for name in before if name not in seen]
            seen.update(level)
        return None


def _is_product(operator: str) -> bool:
    return any(product in operator for product in _PRODUCTS)
