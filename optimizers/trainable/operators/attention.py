"""Attention as one operator, as exporters write it since operator set 23."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from optimizers.trainable.node import Inputs, Node
from optimizers.trainable.registry import operator


@operator("Attention")
def attention(node: Node, inputs: Inputs) -> Tensor:
    """Give softmax(scale Q K^T + mask) V for each head (Vaswani et al., 2017)."""
    if inputs.optional(4) is not None or inputs.optional(5) is not None:
        raise node.refuse("attention to keys of earlier runs")
    if node.number("softcap", 0.0):
        raise node.refuse("a soft cap")
    mask, causal = inputs.optional(3), bool(node.integer("is_causal", 0))
    if causal and mask is not None:
        raise node.refuse("a mask beside a causal one")
    query = _heads(inputs[0], node.integer("q_num_heads", 0))
    keys = _heads(inputs[1], node.integer("kv_num_heads", 0))
    values = _heads(inputs[2], node.integer("kv_num_heads", 0))
    # Several heads of queries may share one of keys and values.
    shared = query.shape[1] // keys.shape[1]
    mixed = functional.scaled_dot_product_attention(
        query,
        keys.repeat_interleave(shared, 1),
        values.repeat_interleave(shared, 1),
        attn_mask=mask,
        is_causal=causal,
        scale=node.number("scale", query.shape[-1] ** -0.5),
    )
    return mixed.transpose(1, 2).flatten(2) if inputs[0].ndim == 3 else mixed


def _heads(x: Tensor, heads: int) -> Tensor:
    """Turn [batch, n, heads * width] into [batch, heads, n, width]; the latter stays."""
    if x.ndim == 4:
        return x
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)
