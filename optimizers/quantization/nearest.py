"""Round to nearest: q = clip(round(w / s) + z) in each block of a column.

Symmetric: s = -m / 2^(bits - 1) with m the value of largest magnitude, z = 2^(bits - 1). Else
s = (max - min) / (2^bits - 1), z = round(-min / s), with 0 always between min and max. These are
the formulas of onnxruntime's own quantiser, which cannot be trained through.
"""

from __future__ import annotations

import torch
from torch import Tensor

from optimizers.quantization.coding import Coded, in_blocks


def nearest(columns: Tensor, bits: int, block_size: int, *, symmetric: bool) -> Coded:
    """Columns [columns, rows] in codes of 8, 4 or 2 bits; a block of zeros has scale 0."""
    blocks = in_blocks(columns, block_size)
    low, high = blocks.amin(dim=2).clamp(max=0), blocks.amax(dim=2).clamp(min=0)
    most = (1 << bits) - 1
    if symmetric:
        middle = 1 << (bits - 1)
        scales = torch.where(high > -low, high, low) / -middle
        points = torch.full_like(scales, middle)
    else:
        scales = (high - low) / most
        points = (-low / _divisor(scales)).round().clamp(0, most)
    steps = blocks / _divisor(scales)[:, :, None]
    codes = steps.add_(points[:, :, None]).round_().clamp_(0, most)
    return Coded(
        rows=columns.shape[1],
        bits=bits,
        codes=codes,
        scales=scales,
        zero_points=None if symmetric else points,
    )


def _divisor(scales: Tensor) -> Tensor:
    return torch.where(scales == 0, 1.0, scales)
