"""Sums, means and extremes over axes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from optimizers.trainable.node import Inputs, Node
from optimizers.trainable.registry import Function, operator

Reduction = Callable[[Tensor, tuple[int, ...], bool], Tensor]
"""Takes a tensor, axes, and whether these stay with length one."""


def _product(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


_REDUCTIONS: Final[dict[str, Reduction]] = {
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keepdim=keep),
    "ReduceL2": lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt(),
    "ReduceLogSum": lambda x, axes, keep: x.sum(axes, keepdim=keep).log(),
    "ReduceLogSumExp": lambda x, axes, keep: x.logsumexp(axes, keepdim=keep),
    "ReduceMax": lambda x, axes, keep: x.amax(axes, keepdim=keep),
    "ReduceMean": lambda x, axes, keep: x.mean(axes, keepdim=keep),
    "ReduceMin": lambda x, axes, keep: x.amin(axes, keepdim=keep),
    "ReduceProd": _product,
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keepdim=keep, dtype=x.dtype),
    "ReduceSumSquare": lambda x, axes, keep: x.square().sum(axes, keepdim=keep),
}


def _reduce(function: Reduction) -> Function:
    def reduce(node: Node, inputs: Inputs) -> Tensor:
        x = inputs[0]
        axes = node.integers("axes")
        if inputs.optional(1) is not None:
            axes = inputs.integers(1)
        if not axes and node.integer("noop_with_empty_axes", 0):
            return x
        chosen = tuple(axes) or tuple(range(x.ndim))
        return function(x, chosen, bool(node.integer("keepdims", 1))) if chosen else x

    return reduce


for _name, _reduction in _REDUCTIONS.items():
    operator(_name, on_host=(1,))(_reduce(_reduction))


@operator("ArgMax", "ArgMin")
def arg_extreme(node: Node, inputs: Inputs) -> Tensor:
    """Give the number of the largest or smallest element along an axis."""
    function = torch.argmax if node.operator == "ArgMax" else torch.argmin
    x, axis, keep = inputs[0], node.integer("axis", 0), bool(node.integer("keepdims", 1))
    if node.integer("select_last_index", 0):
        return x.shape[axis] - 1 - function(x.flip(axis), axis, keep)
    return function(x, axis, keep)


@operator("CumSum", on_host=(1,))
def cumulative_sum(node: Node, inputs: Inputs) -> Tensor:
    """Give the sums of all elements up to each along an axis, or of those after it."""
    x, axis = inputs[0], inputs.integers(1)[0]
    ordered = x.flip(axis) if node.integer("reverse", 0) else x
    sums = ordered.cumsum(axis, dtype=x.dtype)
    if node.integer("exclusive", 0):
        sums = sums - ordered
    return sums.flip(axis) if node.integer("reverse", 0) else sums


@operator("TopK", on_host=(1,))
def largest(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    """Give the k largest or smallest elements along an axis, and their numbers."""
    found = torch.topk(
        inputs[0],
        math.prod(inputs.integers(1)),
        node.integer("axis", -1),
        bool(node.integer("largest", 1)),
        bool(node.integer("sorted", 1)),
    )
    return found.values, found.indices
