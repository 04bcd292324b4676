"""Elements picked and placed by their numbers."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from optimizers.trainable.node import Inputs, Node
from optimizers.trainable.registry import operator

_SCATTERS: Final = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@operator("Gather")
def gather(node: Node, inputs: Inputs) -> Tensor:
    """Give whole slices along an axis, negative numbers counting from the end."""
    x, indices = inputs[0], inputs[1].to(torch.int64)
    axis = node.integer("axis", 0) % x.ndim
    rows = x.index_select(axis, _from_start(indices, x.shape[axis]).flatten())
    return torch.reshape(rows, (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


@operator("GatherElements")
def gather_elements(node: Node, inputs: Inputs) -> Tensor:
    """Give single elements along an axis."""
    x, axis = inputs[0], node.integer("axis", 0)
    return torch.gather(x, axis, _from_start(inputs[1].to(torch.int64), x.shape[axis]))


@operator("GatherND")
def gather_nd(node: Node, inputs: Inputs) -> Tensor:
    """Give what lies at places of several numbers each."""
    x, indices, batch = inputs[0], inputs[1].to(torch.int64), node.integer("batch_dims", 0)
    places = list(indices.unbind(-1))
    for axis in reversed(range(batch)):
        numbers = torch.arange(x.shape[axis], device=indices.device)
        shape = [-1 if other == axis else 1 for other in range(indices.ndim - 1)]
        places.insert(0, numbers.reshape(shape).expand(indices.shape[:-1]))
    return x[tuple(places)]


@operator("ScatterElements")
def scatter_elements(node: Node, inputs: Inputs) -> Tensor:
    """Give x with single elements along an axis replaced, or combined with others."""
    x, axis, updates = inputs[0], node.integer("axis", 0), inputs[2]
    indices = _from_start(inputs[1].to(torch.int64), x.shape[axis])
    reduction = node.text("reduction", "none")
    if reduction == "none":
        return x.scatter(axis, indices, updates)
    return x.scatter_reduce(axis, indices, updates, _SCATTERS[reduction])


@operator("ScatterND")
def scatter_nd(node: Node, inputs: Inputs) -> Tensor:
    """Give x with what lies at places of several numbers each replaced, or added to."""
    reduction = node.text("reduction", "none")
    if reduction not in ("none", "add"):
        raise node.refuse(f"the reduction {reduction}")
    places = inputs[1].to(torch.int64).unbind(-1)
    return inputs[0].index_put(places, inputs[2], accumulate=reduction == "add")


@operator("NonZero")
def non_zero(node: Node, inputs: Inputs) -> Tensor:
    """Give the places of all elements that are not zero, int64 [axes, places]."""
    return torch.nonzero(inputs[0]).T


def _from_start(indices: Tensor, length: int) -> Tensor:
    return torch.where(indices < 0, indices + length, indices)
