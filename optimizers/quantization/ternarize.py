"""Weights of three values: W is alpha t, t = -1, 0 or 1, in each block of a column (TWN).

t = sign(w) where |w| > delta, else 0; delta = 0.7 mean |W|, alpha = mean of |w| where |w| > delta.
With 2 bits and zero point 2, the codes 1, 2 and 3 are exactly -1, 0 and 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from optimizers.contract.quantization import Ternarize
from optimizers.quantization.narrow_products import narrow_to_values
from optimizers.quantization.nbits import Codes, Floats, in_blocks
from optimizers.step import StepContext, StepResult

_ZERO: Final = 2
_SHARE_OF_MEAN: Final = 0.7
"""The best one if weights are normal is close to it (Li et al. 2016, section 3.2)."""


def apply(model: Path, step: Ternarize, context: StepContext) -> StepResult:
    """Ternarise every product with a constant weight; see `optimizers.step`."""
    return narrow_to_values(model, step, context, name="ternarize", values=ternary)


def ternary(weight: Floats, block_size: int) -> tuple[Codes, Floats]:
    """Codes [columns, blocks, block_size] and alpha [columns, blocks] of W [rows, columns].

    Where a column ends within its last block, only its rows count. A block of zeros has alpha 0.
    """
    blocks = in_blocks(weight, block_size)
    size = np.abs(blocks)
    delta = _SHARE_OF_MEAN * np.nanmean(size, axis=2, keepdims=True)
    kept = size > delta
    count = np.maximum(1, kept.sum(axis=2))
    alpha = (np.where(kept, size, 0).sum(axis=2) / count).astype(np.float32)
    signs = np.where(kept, np.sign(blocks), 0)
    return (_ZERO + signs).astype(np.uint8), alpha
