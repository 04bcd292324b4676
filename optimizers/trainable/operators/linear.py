"""Matrix products."""

from __future__ import annotations

import torch
from torch import Tensor

from optimizers.trainable.node import Inputs, Node
from optimizers.trainable.registry import operator


@operator("MatMul")
def matmul(node: Node, inputs: Inputs) -> Tensor:
    """Give y = a b, over all leading axes."""
    return torch.matmul(inputs[0], inputs[1])


@operator("Gemm")
def gemm(node: Node, inputs: Inputs) -> Tensor:
    """Give y = alpha a b + beta c, where a and b may be transposed first."""
    left = inputs[0].T if node.integer("transA", 0) else inputs[0]
    right = inputs[1].T if node.integer("transB", 0) else inputs[1]
    alpha, beta = node.number("alpha", 1.0), node.number("beta", 1.0)
    product = left @ right
    product = product if alpha == 1 else product * alpha
    added = inputs.optional(2)
    if added is None:
        return product
    return product + (added if beta == 1 else added * beta)


@operator("Einsum")
def einsum(node: Node, inputs: Inputs) -> Tensor:
    """Sums of products as an equation says."""
    return torch.einsum(node.text("equation", "").replace(" ", ""), *inputs)
