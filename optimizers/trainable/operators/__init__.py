"""The operators by family; importing this registers them all."""

from optimizers.trainable.operators import (
    activation,
    convolution,
    elementwise,
    linear,
    normalization,
    pooling,
    shape,
)

__all__ = [
    "activation",
    "convolution",
    "elementwise",
    "linear",
    "normalization",
    "pooling",
    "shape",
]
