"""Largest and mean values of windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from optimizers.trainable.node import Inputs, Node
from optimizers.trainable.operators.windows import pad, windows
from optimizers.trainable.registry import operator

_LARGEST: Final[dict[int, Callable[..., Tensor]]] = {
    1: functional.max_pool1d,
    2: functional.max_pool2d,
    3: functional.max_pool3d,
}
_MEAN: Final[dict[int, Callable[..., Tensor]]] = {
    1: functional.avg_pool1d,
    2: functional.avg_pool2d,
    3: functional.avg_pool3d,
}


@operator("MaxPool")
def max_pool(node: Node, inputs: Inputs) -> Tensor:
    """The largest element of each window."""
    x = inputs[0]
    found = windows(node, x.shape[2:], node.integers("kernel_shape"))
    padded = pad(x, found.before, found.after, value=-torch.inf)
    return _of_axes(node, _LARGEST, x)(
        padded,
        found.kernel,
        stride=found.strides,
        dilation=found.dilations,
        ceil_mode=bool(node.integer("ceil_mode", 0)),
    )


@operator("AveragePool")
def average_pool(node: Node, inputs: Inputs) -> Tensor:
    """The mean of each window, of what was added around the input too if the node says so."""
    x = inputs[0]
    found = windows(node, x.shape[2:], node.integers("kernel_shape"))
    if any(dilation != 1 for dilation in found.dilations):
        raise node.refuse("a dilated mean")

    def mean(values: Tensor) -> Tensor:
        return _of_axes(node, _MEAN, x)(
            pad(values, found.before, found.after),
            found.kernel,
            stride=found.strides,
            ceil_mode=bool(node.integer("ceil_mode", 0)),
        )

    means = mean(x)
    if node.integer("count_include_pad", 0) or not any(found.before + found.after):
        return means
    return means / mean(torch.ones_like(x[:1, :1]))


@operator("GlobalAveragePool")
def global_average_pool(node: Node, inputs: Inputs) -> Tensor:
    """The mean of each channel."""
    return inputs[0].mean(dim=tuple(range(2, inputs[0].ndim)), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(node: Node, inputs: Inputs) -> Tensor:
    """The largest element of each channel."""
    return inputs[0].amax(dim=tuple(range(2, inputs[0].ndim)), keepdim=True)


def _of_axes(
    node: Node, functions: dict[int, Callable[..., Tensor]], x: Tensor
) -> Callable[..., Tensor]:
    axes = x.ndim - 2
    if axes not in functions:
        raise node.refuse(f"a pool over {axes} axes")
    return functions[axes]
