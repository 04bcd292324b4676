"""Functions of one element, as networks have them between their layers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from optimizers.trainable.node import Inputs, Node
from optimizers.trainable.registry import operator


@operator("Relu")
def relu(node: Node, inputs: Inputs) -> Tensor:
    """Give max(x, 0)."""
    return torch.relu(inputs[0])


@operator("LeakyRelu")
def leaky_relu(node: Node, inputs: Inputs) -> Tensor:
    """Give x, below zero times alpha."""
    return functional.leaky_relu(inputs[0], node.number("alpha", 0.01))


@operator("PRelu")
def parametric_relu(node: Node, inputs: Inputs) -> Tensor:
    """Give x, below zero times a learnt slope."""
    return torch.where(inputs[0] < 0, inputs[0] * inputs[1], inputs[0])


@operator("ThresholdedRelu")
def thresholded_relu(node: Node, inputs: Inputs) -> Tensor:
    """Give x above alpha, else 0."""
    x = inputs[0]
    return torch.where(x > node.number("alpha", 1.0), x, torch.zeros_like(x))


@operator("Elu")
def elu(node: Node, inputs: Inputs) -> Tensor:
    """Give x, below zero alpha (exp(x) - 1)."""
    return functional.elu(inputs[0], node.number("alpha", 1.0))


@operator("Celu")
def celu(node: Node, inputs: Inputs) -> Tensor:
    """Give x, below zero alpha (exp(x / alpha) - 1)."""
    return functional.celu(inputs[0], node.number("alpha", 1.0))


@operator("Selu")
def selu(node: Node, inputs: Inputs) -> Tensor:
    """Give gamma x, below zero gamma alpha (exp(x) - 1)."""
    alpha = node.number("alpha", 1.67326319217681884765625)
    return node.number("gamma", 1.05070102214813232421875) * functional.elu(inputs[0], alpha)


@operator("Gelu")
def gelu(node: Node, inputs: Inputs) -> Tensor:
    """Give x times the normal distribution function of x, or its approximation by tanh."""
    return functional.gelu(inputs[0], approximate=node.text("approximate", "none"))


@operator("HardSigmoid")
def hard_sigmoid(node: Node, inputs: Inputs) -> Tensor:
    """Give alpha x + beta, kept in [0, 1]."""
    return (node.number("alpha", 0.2) * inputs[0] + node.number("beta", 0.5)).clamp(0, 1)


@operator("HardSwish")
def hard_swish(node: Node, inputs: Inputs) -> Tensor:
    """Give x (x / 6 + 1/2), the second factor kept in [0, 1]."""
    return functional.hardswish(inputs[0])


@operator("Mish")
def mish(node: Node, inputs: Inputs) -> Tensor:
    """Give x tanh(log(1 + exp(x)))."""
    return functional.mish(inputs[0])


@operator("Softplus")
def softplus(node: Node, inputs: Inputs) -> Tensor:
    """Give log(1 + exp(x))."""
    return functional.softplus(inputs[0])


@operator("Softsign")
def softsign(node: Node, inputs: Inputs) -> Tensor:
    """Give x / (1 + |x|)."""
    return functional.softsign(inputs[0])


@operator("Clip")
def clip(node: Node, inputs: Inputs) -> Tensor:
    """Give x, kept between a smallest and a largest value where these are given."""
    x, smallest, largest = inputs[0], inputs.optional(1), inputs.optional(2)
    if node.has("min"):
        smallest = torch.tensor(node.number("min", 0), dtype=x.dtype, device=x.device)
    if node.has("max"):
        largest = torch.tensor(node.number("max", 0), dtype=x.dtype, device=x.device)
    if smallest is None and largest is None:
        return x
    return torch.clamp(x, smallest, largest)


@operator("Dropout")
def dropout(node: Node, inputs: Inputs) -> Tensor | tuple[Tensor, ...]:
    """Give x as it is: answers of a model that was trained before must not depend on chance."""
    x = inputs[0]
    return (x, torch.ones_like(x, dtype=torch.bool)) if len(node.outputs) > 1 else x
