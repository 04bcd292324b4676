"""Parts of tensors put together, taken apart, repeated and moved."""

from __future__ import annotations

import torch
from torch import Tensor

from optimizers.trainable.node import Inputs, Node
from optimizers.trainable.operators.windows import pad
from optimizers.trainable.registry import operator


@operator("Concat")
def concatenate(node: Node, inputs: Inputs) -> Tensor:
    """Give all inputs one after the other along an axis."""
    return torch.cat(tuple(inputs), node.integer("axis", 0))


@operator("Split", on_host=(1,))
def split(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    """Give parts along an axis: of given lengths, else as equal as can be."""
    x, axis = inputs[0], node.integer("axis", 0)
    lengths = node.integers("split")
    if inputs.optional(1) is not None:
        lengths = inputs.integers(1)
    if lengths:
        return torch.split(x, lengths, axis)
    count = node.integer("num_outputs", len(node.outputs))
    return torch.split(x, -(-x.shape[axis] // count), axis)


@operator("Slice", on_host=(1, 2, 3, 4))
def cut(node: Node, inputs: Inputs) -> Tensor:
    """Give every step-th element from a start to before an end, along some axes."""
    x = inputs[0]
    starts, ends, axes, steps = (
        inputs.integers(position) if inputs.optional(position) is not None else node.integers(name)
        for position, name in enumerate(("starts", "ends", "axes", "steps"), start=1)
    )
    axes = axes or list(range(len(starts)))
    steps = steps or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        first, last, stride = slice(start, end, step).indices(x.shape[axis])
        if stride == 1:
            x = x.narrow(axis, first, max(0, last - first))
        else:
            numbers = torch.tensor(range(first, last, stride), dtype=torch.int64)
            x = x.index_select(axis, numbers.to(x.device))
    return x


@operator("Tile", on_host=(1,))
def tile(node: Node, inputs: Inputs) -> Tensor:
    """Give x repeated along each axis."""
    return inputs[0].repeat(inputs.integers(1))


@operator("Pad", on_host=(1, 2, 3))
def add_margin(node: Node, inputs: Inputs) -> Tensor:
    """Give x with elements before and after it: one value, or its own ones again."""
    x = inputs[0]
    pads = node.integers("pads") or inputs.integers(1)
    axes = list(range(x.ndim)) if inputs.optional(3) is None else inputs.integers(3)
    before, after = [0] * x.ndim, [0] * x.ndim
    for number, axis in enumerate(axes):
        before[axis], after[axis] = pads[number], pads[number + len(axes)]
    mode = node.text("mode", "constant")
    if mode != "constant":
        return _repeated(node, x, before, after, mode)
    value = inputs.optional(2)
    return pad(x, before, after, node.number("value", 0) if value is None else value.item())


def _repeated(node: Node, x: Tensor, before: list[int], after: list[int], mode: str) -> Tensor:
    for axis, length in enumerate(x.shape):
        numbers = torch.arange(-before[axis], length + after[axis], device=x.device)
        if mode == "edge":
            numbers = numbers.clamp(0, length - 1)
        elif mode == "wrap":
            numbers = numbers % length
        elif mode == "reflect":
            period = max(1, 2 * (length - 1))
            numbers = numbers % period
            numbers = torch.minimum(numbers, period - numbers)
        else:
            raise node.refuse(f"the mode {mode}")
        x = x.index_select(axis, numbers)
    return x


@operator("DepthToSpace")
def depth_to_space(node: Node, inputs: Inputs) -> Tensor:
    """Give blocks of channels as squares of pixels."""
    x, block = inputs[0], node.integer("blocksize", 1)
    items, channels, height, width = x.shape
    if node.text("mode", "DCR") == "DCR":
        parts = x.reshape(items, block, block, channels // block**2, height, width)
        parts = parts.permute(0, 3, 4, 1, 5, 2)
    else:
        parts = x.reshape(items, channels // block**2, block, block, height, width)
        parts = parts.permute(0, 1, 4, 2, 5, 3)
    return parts.reshape(items, channels // block**2, height * block, width * block)


@operator("SpaceToDepth")
def space_to_depth(node: Node, inputs: Inputs) -> Tensor:
    """Give squares of pixels as blocks of channels."""
    x, block = inputs[0], node.integer("blocksize", 1)
    items, channels, height, width = x.shape
    parts = x.reshape(items, channels, height // block, block, width // block, block)
    parts = parts.permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(items, channels * block**2, height // block, width // block)


@operator("Trilu", on_host=(1,))
def triangle(node: Node, inputs: Inputs) -> Tensor:
    """Give the upper or lower triangle, zeros elsewhere."""
    diagonal = 0 if inputs.optional(1) is None else inputs.integers(1)[0]
    function = torch.triu if node.integer("upper", 1) else torch.tril
    return function(inputs[0], diagonal)
