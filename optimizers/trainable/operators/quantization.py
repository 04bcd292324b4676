"""Fake quantisation: the numbers of integers, the gradient of what was rounded.

q = clamp(round(x / s) + z, lowest, highest) and x' = (q - z) s. Rounding has no gradient, so it is
passed over as if it were the identity (the straight-through estimator, Bengio et al., 2013,
arXiv:1308.3432); what is clamped has none. q is a float tensor that holds integers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from optimizers.trainable.node import DTYPES, Inputs, Node
from optimizers.trainable.registry import operator

_RANGED = (torch.uint8, torch.int8, torch.int16)


@operator("QuantizeLinear")
def quantize(node: Node, inputs: Inputs) -> Tensor:
    """Give q as a float tensor."""
    x, scale, zero = inputs[0], inputs[1], inputs.optional(2)
    kind = torch.uint8 if zero is None else zero.dtype
    if zero is None and node.integer("output_dtype", 0):
        kind = DTYPES.get(node.integer("output_dtype", 0), torch.float32)
    if kind not in _RANGED:
        raise node.refuse(f"quantisation to {kind}")
    scale, shift = _along(node, x, scale), _along(node, x, zero)
    scaled = x / scale
    rounded = scaled + (torch.round(scaled) - scaled).detach()
    limits = torch.iinfo(kind)
    return (rounded + shift).clamp(limits.min, limits.max)


@operator("DequantizeLinear")
def dequantize(node: Node, inputs: Inputs) -> Tensor:
    """Give (q - z) s in the datatype of s."""
    q, scale = inputs[0], inputs[1]
    scale, shift = _along(node, q, scale), _along(node, q, inputs.optional(2))
    return (q.to(scale.dtype) - shift) * scale


def _along(node: Node, x: Tensor, value: Tensor | None) -> Tensor:
    """One number, or one for each place along an axis."""
    if value is None:
        return torch.zeros((), device=x.device)
    value = value if value.is_floating_point() else value.to(torch.float32)
    if value.numel() == 1:
        return value.reshape(())
    if value.ndim > 1 or node.integer("block_size", 0):
        raise node.refuse("quantisation in blocks")
    axis = node.integer("axis", 1) % x.ndim
    return value.reshape([-1 if other == axis else 1 for other in range(x.ndim)])
