"""A Conv with a constant kernel, read from a graph and written to one."""

from __future__ import annotations

from collections.abc import Sequence
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
    integers,
    is_shared,
    new_constant,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Convolution:
    """A Conv.

    Attributes:
        node: The Conv.
        source: What it reads, [items, channels in, ...].
        kernel: [channels out, channels in / group, ...].
        bias: [channels out]; zeros where the Conv has none.
        group: Parts that channels are split into.
        strides: One a spatial axis.
        pads: Zeros before each spatial axis, then zeros after each.
        dilations: One a spatial axis.
    """

    node: ir.Node
    source: ir.Value
    kernel: NDArray[Any]
    bias: NDArray[Any]
    group: int
    strides: list[int]
    pads: list[int]
    dilations: list[int]

    @property
    def name(self) -> str:
        """The node's."""
        return self.node.name or ""

    @property
    def shares_weight(self) -> bool:
        """Whether other nodes read the kernel too."""
        return is_shared(self.node.inputs[1])

    @property
    def result(self) -> ir.Value:
        """What it gives, [items, channels out, ...]."""
        return self.node.outputs[0]

    @property
    def is_pointwise(self) -> bool:
        """Whether every result depends on one place of the source, and on all its channels."""
        return self.group == 1 and not any(self.pads) and set(self.kernel.shape[2:]) == {1}


def convolutions(graph: ir.Graph) -> list[Convolution]:
    """All of a graph's, in its order."""
    found = (read_convolution(node) for node in graph)
    return [convolution for convolution in found if convolution is not None]


def read_convolution(node: ir.Node | None) -> Convolution | None:
    """What a Conv computes; None for others, and where padding depends on the input's size."""
    if node is None or node.domain or node.op_type != "Conv":
        return None
    kernel, source = constant(node.inputs[1]), node.inputs[0]
    automatic = node.attributes.get("auto_pad")
    padded = automatic is not None and automatic.as_string() != "NOTSET"
    if kernel is None or source is None or padded or kernel.dtype.kind != "f":
        return None
    bias: NDArray[Any] | None = np.zeros(len(kernel), kernel.dtype)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = constant(node.inputs[2])
    if bias is None:
        return None
    axes = kernel.ndim - 2
    return Convolution(
        node=node,
        source=source,
        kernel=kernel,
        bias=bias,
        group=integer(node, "group", 1),
        strides=integers(node, "strides", [1] * axes),
        pads=integers(node, "pads", [0] * 2 * axes),
        dilations=integers(node, "dilations", [1] * axes),
    )


def write_convolution(
    before: ir.Node,
    like: Convolution,
    kernel: NDArray[Any],
    bias: NDArray[Any] | None,
    *,
    name: str,
    source: ir.Value | None = None,
    strides: Sequence[int] | None = None,
) -> ir.Value:
    """Put a Conv like another in front of a node; its result.

    Args:
        before: The node.
        like: Gives datatype, group, pads and dilations, and what is not given here.
        kernel: [channels out, channels in / group, ...].
        bias: [channels out] or None.
        name: The new node's.
        source: What it reads.
        strides: One a spatial axis.
    """
    graph, dtype = graph_of(before), like.kernel.dtype
    inputs = [source or like.source, new_constant(graph, f"{name}.kernel", kernel.astype(dtype))]
    if bias is not None:
        inputs.append(new_constant(graph, f"{name}.bias", bias.astype(dtype)))
    attributes: dict[str, int | list[int]] = {
        "kernel_shape": list(kernel.shape[2:]),
        "group": like.group,
        "strides": list(strides or like.strides),
        "pads": like.pads,
        "dilations": like.dilations,
    }
    return insert(before, ir.node("Conv", inputs, attributes, name=name))
