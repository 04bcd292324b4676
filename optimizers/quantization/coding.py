"""Weights in codes as torch computes them: the one definition that trains and that is stored.

w' = (q - z) s in each block of a column, see `nbits`. Training goes through `straight_through`,
what is written comes of `Coded.stored`; both ask the same coder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optimizers.quantization.nbits import Floats, NarrowWeight, block_count, pack


@dataclass(frozen=True, slots=True, kw_only=True)
class Coded:
    """A weight W [rows, columns] in whole codes.

    Attributes:
        rows: Of the weight: codes past the last are of no effect.
        bits: Of each code: 2, 4 or 8.
        codes: q, float32 [columns, blocks, block_size] of whole numbers below 2^bits.
        scales: s, float32 [columns, blocks].
        zero_points: z, float32 [columns, blocks] of whole numbers below 2^bits; None: 2^(bits - 1).
    """

    rows: int
    bits: int
    codes: Tensor
    scales: Tensor
    zero_points: Tensor | None = None

    def widened(self) -> Tensor:
        """The columns of the weight that it stands for, [columns, rows]."""
        points = self.zero_points
        middle = float(1 << (self.bits - 1)) if points is None else points[:, :, None]
        columns = (self.codes - middle).mul_(self.scales[:, :, None]).flatten(1)
        return columns[:, : self.rows]

    def stored(self) -> NarrowWeight:
        """The same as onnxruntime keeps it."""
        columns, blocks, block_size = self.codes.shape
        points = self.zero_points
        if points is not None:
            each = 8 // self.bits
            points = torch.nn.functional.pad(points, (0, -blocks % each))
        return NarrowWeight(
            rows=self.rows,
            columns=columns,
            bits=self.bits,
            block_size=block_size,
            codes=pack(_bytes(self.codes), self.bits),
            scales=np.ascontiguousarray(self.scales.numpy(force=True)),
            zero_points=None if points is None else pack(_bytes(points), self.bits),
        )


Coder = Callable[[Tensor], Coded]
"""The columns of a weight, float32 [columns, rows] → the same in codes; without gradients."""


def straight_through(columns: Tensor, code: Coder) -> Tensor:
    """What the codes of a weight stand for, with the gradient of the weight itself.

    Args:
        columns: Of the weight, [columns, rows]; the answer has the same form.
        code: Its coder.

    dL/dw = dL/dw' (the straight-through estimator, Bengio et al. 2013, arXiv 1308.3432, as
    BinaryConnect uses it, Courbariaux et al. 2015, arXiv 1511.00363).
    """
    found: Tensor = _StraightThrough.apply(columns, code)  # type: ignore[no-untyped-call]
    return found


class _StraightThrough(torch.autograd.Function):
    """Not w + (w' - w): that sum is rounded, and would not be the number that is stored."""

    @staticmethod
    def forward(_: Any, columns: Tensor, code: Coder) -> Tensor:
        return code(columns).widened()

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def coded(weight: Floats, code: Coder) -> NarrowWeight:
    """A weight [rows, columns] as it is stored."""
    with torch.no_grad():
        return code(torch.from_numpy(weight).T).stored()


def in_blocks(columns: Tensor, block_size: int) -> Tensor:
    """The columns of a weight, [columns, rows], in blocks, [columns, blocks, block_size].

    Places past the last row are 0; `block_lengths` says how many are not.
    """
    count, rows = columns.shape
    missing = block_count(rows, block_size) * block_size - rows
    if missing:
        columns = torch.nn.functional.pad(columns, (0, missing))
    return columns.reshape(count, -1, block_size)


def block_lengths(columns: Tensor, block_size: int) -> Tensor:
    """How many rows each block of a column has, float32 [blocks]."""
    rows = columns.shape[1]
    starts = torch.arange(0, rows, block_size, device=columns.device)
    return (rows - starts).clamp(max=block_size).to(torch.float32)


def _bytes(whole: Tensor) -> Any:
    return whole.to(torch.uint8).numpy(force=True)
