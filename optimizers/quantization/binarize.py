"""Weights of two values: W is alpha sign(W), alpha = mean |W| of a block of a column (XNOR-Net).

This alpha leaves the least squared error: d/dalpha sum (w - alpha sign(w))^2 = 0. With 2 bits and
zero point 2, the codes 1 and 3 are exactly -1 and 1; onnxruntime has no kernel for single bits.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from optimizers.contract.quantization import Binarize
from optimizers.quantization.coding import Coded, block_lengths, in_blocks
from optimizers.quantization.narrow_products import narrow_by
from optimizers.step import StepContext, StepResult

_BITS: Final = 2
_MINUS: Final = 1.0
_PLUS: Final = 3.0


def apply(model: Path, step: Binarize, context: StepContext) -> StepResult:
    """Binarise every product with a constant weight; see `optimizers.step`."""
    code = partial(binary, block_size=step.block_size)
    return narrow_by(model, step, context, name="binarize", code=code)


def binary(columns: Tensor, block_size: int) -> Coded:
    """Columns [columns, rows] as plus or minus one alpha per block of a column.

    A weight of 0 counts as positive. Where a column ends within its last block, only its rows
    count for alpha.
    """
    blocks = in_blocks(columns, block_size)
    alpha = blocks.abs().sum(dim=2) / block_lengths(columns, block_size)
    codes = torch.where(blocks < 0, _MINUS, _PLUS)
    return Coded(rows=columns.shape[1], bits=_BITS, codes=codes, scales=alpha)
