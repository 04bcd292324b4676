"""Weights of three values: W is alpha t, t = -1, 0 or 1, in each block of a column (TWN).

t = sign(w) where |w| > delta, else 0; delta = 0.7 mean |W|, alpha = mean of |w| where |w| > delta.
With 2 bits and zero point 2, the codes 1, 2 and 3 are exactly -1, 0 and 1.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

from torch import Tensor

from optimizers.contract.quantization import Ternarize
from optimizers.quantization.coding import Coded, block_lengths, in_blocks
from optimizers.quantization.narrow_products import narrow_by
from optimizers.step import StepContext, StepResult

_BITS: Final = 2
_ZERO: Final = 2.0
_SHARE_OF_MEAN: Final = 0.7
"""The best one if weights are normal is close to it (Li et al. 2016, section 3.2)."""


def apply(model: Path, step: Ternarize, context: StepContext) -> StepResult:
    """Ternarise every product with a constant weight; see `optimizers.step`."""
    code = partial(ternary, block_size=step.block_size)
    return narrow_by(model, step, context, name="ternarize", code=code)


def ternary(columns: Tensor, block_size: int) -> Coded:
    """Columns [columns, rows] as 0 or plus or minus one alpha per block of a column.

    Where a column ends within its last block, only its rows count. A block of zeros has alpha 0.
    """
    blocks = in_blocks(columns, block_size)
    size = blocks.abs()
    delta = _SHARE_OF_MEAN * size.sum(dim=2) / block_lengths(columns, block_size)
    kept = size > delta[:, :, None]
    alpha = (size * kept).sum(dim=2) / kept.sum(dim=2).clamp(min=1)
    codes = blocks.sign().mul_(kept).add_(_ZERO)
    return Coded(rows=columns.shape[1], bits=_BITS, codes=codes, scales=alpha)
