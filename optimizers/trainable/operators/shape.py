"""Other shapes of the same elements, and questions about shapes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from optimizers.trainable.node import DTYPES, Inputs, Node
from optimizers.trainable.registry import operator


@operator("Identity")
def identity(node: Node, inputs: Inputs) -> Tensor:
    """Give x."""
    return inputs[0]


@operator("Reshape", on_host=(1,))
def reshape(node: Node, inputs: Inputs) -> Tensor:
    """The same elements in order; 0 keeps a length unless `allowzero`, -1 takes the rest."""
    x, sizes = inputs[0], inputs.integers(1)
    if not node.integer("allowzero", 0):
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return torch.reshape(x, sizes)


@operator("Flatten")
def flatten(node: Node, inputs: Inputs) -> Tensor:
    """Two axes: those before an axis, and the rest."""
    x, axis = inputs[0], node.integer("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator("Transpose")
def transpose(node: Node, inputs: Inputs) -> Tensor:
    """Axes in another order; the opposite one where none is given."""
    x = inputs[0]
    return x.permute(node.integers("perm", list(range(x.ndim))[::-1]))


@operator("Squeeze", on_host=(1,))
def squeeze(node: Node, inputs: Inputs) -> Tensor:
    """Without axes of length one: those given, else all."""
    x, axes = inputs[0], _axes(node, inputs)
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


@operator("Unsqueeze", on_host=(1,))
def unsqueeze(node: Node, inputs: Inputs) -> Tensor:
    """With new axes of length one, at these places of the result."""
    x, axes = inputs[0], _axes(node, inputs) or []
    dimensions = x.ndim + len(axes)
    for axis in sorted(axis % dimensions for axis in axes):
        x = x.unsqueeze(axis)
    return x


@operator("Expand", on_host=(1,))
def expand(node: Node, inputs: Inputs) -> Tensor:
    """Repeated along axes of length one until it fits another shape, as broadcasting does."""
    x, sizes = inputs[0], inputs.integers(1)
    kept = [1] * (len(sizes) - x.ndim) + list(x.shape)
    sizes = [1] * (x.ndim - len(sizes)) + sizes
    return x.expand([old if new == 1 else new for old, new in zip(kept, sizes, strict=True)])


@operator("Shape")
def shape(node: Node, inputs: Inputs) -> Tensor:
    """The lengths of the axes from `start` to `end`, int64 on the processor."""
    sizes = list(inputs[0].shape)
    end = node.integer("end", len(sizes))
    return torch.tensor(sizes[node.integer("start", 0) : end], dtype=torch.int64)


@operator("Size")
def size(node: Node, inputs: Inputs) -> Tensor:
    """How many elements there are."""
    return torch.tensor(inputs[0].numel(), dtype=torch.int64)


@operator("Cast")
def cast(node: Node, inputs: Inputs) -> Tensor:
    """The same values in another datatype."""
    wanted = node.integer("to", 0)
    if wanted not in DTYPES:
        raise node.refuse(f"a cast to datatype {wanted}")
    return inputs[0].to(DTYPES[wanted])


@operator("CastLike")
def cast_like(node: Node, inputs: Inputs) -> Tensor:
    """The same values in the datatype of another tensor."""
    return inputs[0].to(inputs[1].dtype)


def _axes(node: Node, inputs: Inputs) -> list[int] | None:
    """An attribute up to operator set 12, an input since."""
    if inputs.optional(1) is not None:
        return inputs.integers(1)
    return node.integers("axes") if node.has("axes") else None
