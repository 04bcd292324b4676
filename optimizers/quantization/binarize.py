"""Weights of two values: W is alpha sign(W), alpha = mean |W| of a block of a column (XNOR-Net).

This alpha leaves the least squared error: d/dalpha sum (w - alpha sign(w))^2 = 0. With 2 bits and
zero point 2, the codes 1 and 3 are exactly -1 and 1; onnxruntime has no kernel for single bits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from optimizers.contract.quantization import Binarize
from optimizers.quantization.narrow_products import narrow_to_values
from optimizers.quantization.nbits import Codes, Floats, in_blocks
from optimizers.step import StepContext, StepResult

_MINUS: Final = 1
_PLUS: Final = 3


def apply(model: Path, step: Binarize, context: StepContext) -> StepResult:
    """Binarise every product with a constant weight; see `optimizers.step`."""
    return narrow_to_values(model, step, context, name="binarize", values=binary)


def binary(weight: Floats, block_size: int) -> tuple[Codes, Floats]:
    """Codes [columns, blocks, block_size] and alpha [columns, blocks] of W [rows, columns].

    A weight of 0 counts as positive. Where a column ends within its last block, only its rows
    count for alpha.
    """
    blocks = in_blocks(weight, block_size)
    alpha = np.nanmean(np.abs(blocks), axis=2)
    codes = np.where(blocks < 0, np.uint8(_MINUS), np.uint8(_PLUS))
    return codes, alpha
