"""Tensors out of nothing but numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from optimizers.trainable.node import Inputs, Node
from optimizers.trainable.registry import operator


def held(node: Node) -> Tensor:
    """Give what a Constant holds, in whichever of its forms."""
    if node.has("value"):
        return node.tensor("value")
    if node.has("value_float"):
        return torch.tensor(node.number("value_float", 0), dtype=torch.float32)
    if node.has("value_floats"):
        return torch.tensor(node.numbers("value_floats"), dtype=torch.float32)
    if node.has("value_int"):
        return torch.tensor(node.integer("value_int", 0), dtype=torch.int64)
    if node.has("value_ints"):
        return torch.tensor(node.integers("value_ints"), dtype=torch.int64)
    raise node.refuse("a sparse or text constant")


@operator("Constant")
def constant(node: Node, inputs: Inputs) -> Tensor:
    """Give what the node holds."""
    return held(node)


@operator("ConstantOfShape", on_host=(0,))
def constant_of_shape(node: Node, inputs: Inputs) -> Tensor:
    """Give a tensor of one value, a float zero where none is given."""
    value = node.tensor("value") if node.has("value") else torch.zeros(1)
    return torch.full(inputs.integers(0), value.item(), dtype=value.dtype)


@operator("Range", on_host=(0, 1, 2))
def arithmetic_range(node: Node, inputs: Inputs) -> Tensor:
    """Give the numbers from a start to before a limit, a step apart."""
    start, limit, step = (inputs[position].item() for position in range(3))
    return torch.arange(start, limit, step, dtype=inputs[0].dtype)


@operator("OneHot", on_host=(1,))
def one_hot(node: Node, inputs: Inputs) -> Tensor:
    """Give, along a new axis, one value at the number that the input says and another elsewhere."""
    indices, depth, values = inputs[0].to(torch.int64), inputs.integers(1)[0], inputs[2]
    numbers = torch.arange(depth, device=indices.device)
    hot = (indices % depth).unsqueeze(-1) == numbers
    # A number outside [-depth, depth) is hot nowhere.
    hot = hot & ((indices >= -depth) & (indices < depth)).unsqueeze(-1)
    return torch.where(hot.movedim(-1, node.integer("axis", -1)), values[1], values[0])
