"""Normalisations, by running statistics or by those of the input itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from optimizers.trainable.node import Inputs, Node
from optimizers.trainable.registry import operator


@operator("BatchNormalization")
def batch_normalization(node: Node, inputs: Inputs) -> Tensor:
    """Give y = scale (x - mean) / sqrt(variance + epsilon) + bias for each channel."""
    if node.integer("training_mode", 0):
        raise node.refuse("a norm that uses its batch while it serves")
    momentum = node.mode.momentum
    return functional.batch_norm(
        inputs[0],
        inputs[3],
        inputs[4],
        weight=inputs[1],
        bias=inputs[2],
        training=node.mode.training,
        # ONNX gives the weight of the old statistics, torch that of the new ones.
        momentum=1 - node.number("momentum", 0.9) if momentum is None else momentum,
        eps=node.number("epsilon", 1e-5),
    )


@operator("LayerNormalization")
def layer_normalization(node: Node, inputs: Inputs) -> Tensor:
    """Give y = scale (x - mean) / sqrt(variance + epsilon) + bias over the last axes."""
    x = inputs[0]
    axis = node.integer("axis", -1)
    return functional.layer_norm(
        x, x.shape[axis:], inputs[1].expand(x.shape[axis:]), _bias(x, axis, inputs), _epsilon(node)
    )


@operator("RMSNormalization")
def rms_normalization(node: Node, inputs: Inputs) -> Tensor:
    """Give y = scale x / sqrt(mean of x^2 + epsilon) over the last axes."""
    x = inputs[0]
    axes = tuple(range(node.integer("axis", -1) % x.ndim, x.ndim))
    return x * torch.rsqrt(x.square().mean(axes, keepdim=True) + _epsilon(node)) * inputs[1]


@operator("InstanceNormalization")
def instance_normalization(node: Node, inputs: Inputs) -> Tensor:
    """Give y = scale (x - mean) / sqrt(variance + epsilon) + bias for each item and channel."""
    return functional.instance_norm(inputs[0], weight=inputs[1], bias=inputs[2], eps=_epsilon(node))


@operator("GroupNormalization")
def group_normalization(node: Node, inputs: Inputs) -> Tensor:
    """Give y = scale (x - mean) / sqrt(variance + epsilon) + bias for each item and group."""
    x, groups = inputs[0], node.integer("num_groups", 1)
    scale, bias = inputs[1], inputs[2]
    # Up to operator set 20 there is one scale for a group, since then one for a channel.
    if len(scale) != x.shape[1]:
        repeats = x.shape[1] // groups
        scale, bias = scale.repeat_interleave(repeats), bias.repeat_interleave(repeats)
    return functional.group_norm(x, groups, scale, bias, _epsilon(node))


@operator("LRN")
def local_response_normalization(node: Node, inputs: Inputs) -> Tensor:
    """Give y = x / (bias + alpha / size * sum of x^2 over `size` channels)^beta."""
    return functional.local_response_norm(
        inputs[0],
        node.integer("size", 1),
        alpha=node.number("alpha", 1e-4),
        beta=node.number("beta", 0.75),
        k=node.number("bias", 1.0),
    )


@operator("LpNormalization")
def lp_normalization(node: Node, inputs: Inputs) -> Tensor:
    """Give y = x / |x|_p along an axis."""
    x, axis = inputs[0], node.integer("axis", -1)
    if node.integer("p", 2) == 1:
        return x / x.abs().sum(axis, keepdim=True)
    return x / x.square().sum(axis, keepdim=True).sqrt()


@operator("Softmax")
def softmax(node: Node, inputs: Inputs) -> Tensor:
    """Give exp(x) / sum of exp(x) along an axis."""
    return _along(node, inputs[0], lambda x, axis: torch.softmax(x, axis))


@operator("LogSoftmax")
def log_softmax(node: Node, inputs: Inputs) -> Tensor:
    """Give x - log of the sum of exp(x) along an axis."""
    return _along(node, inputs[0], lambda x, axis: torch.log_softmax(x, axis))


def _along(node: Node, x: Tensor, function: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Along one axis; up to operator set 12 over it and all behind it."""
    if node.opset >= 13:
        return function(x, node.integer("axis", -1))
    axis = node.integer("axis", 1) % x.ndim
    return function(x.flatten(axis), axis).reshape(x.shape)


def _bias(x: Tensor, axis: int, inputs: Inputs) -> Tensor | None:
    bias = inputs.optional(2)
    return None if bias is None else bias.expand(x.shape[axis:])


def _epsilon(node: Node) -> float:
    return node.number("epsilon", 1e-5)
