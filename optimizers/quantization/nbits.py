"""How onnxruntime's MatMulNBits stores a weight: codes of 2, 4 or 8 bits in blocks of each column.

w[k, n] = (q[k, n] - z[b, n]) s[b, n] with b = k // block_size; z is 2^(bits - 1) where no zero
points are stored. The lowest bits of a byte hold the code that comes first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Codes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class NarrowWeight:
    """A weight W [rows, columns] in codes.

    Attributes:
        rows: K, the length of the sums of the product.
        columns: N, how many values the product gives.
        bits: Of each code: 2, 4 or 8.
        block_size: Rows of one column that share a scale: a power of two, at least 16.
        codes: [columns, blocks, block_size * bits / 8]; rows past the last are of no effect.
        scales: [columns, blocks].
        zero_points: None: 2^(bits - 1). Else packed along the blocks, uint8 [columns,
            ceil(blocks * bits / 8)], or one each that need not be whole, float32 [columns, blocks].
    """

    rows: int
    columns: int
    bits: int
    block_size: int
    codes: Codes
    scales: Floats
    zero_points: Codes | Floats | None = None

    @property
    def stored_bytes(self) -> int:
        """What it takes in the file."""
        zero_points = 0 if self.zero_points is None else self.zero_points.nbytes
        return self.codes.nbytes + self.scales.nbytes + zero_points

    def widened(self) -> Floats:
        """The weight that it stands for, [rows, columns]."""
        codes = unpack(self.codes, self.bits).astype(np.float32)
        steps = codes - self._zero_points()[:, :, None]
        columns = (steps * self.scales[:, :, None]).reshape(self.columns, -1)
        return np.ascontiguousarray(columns[:, : self.rows].T)

    def _zero_points(self) -> Floats:
        """One zero point per block, [columns, blocks]."""
        points = self.zero_points
        if points is None:
            return np.full_like(self.scales, 1 << (self.bits - 1))
        if points.dtype == np.uint8:
            points = unpack(points.astype(np.uint8), self.bits)[:, : self.scales.shape[1]]
        return points.astype(np.float32)


def narrow_weight(codes: Codes, scales: Floats, rows: int, bits: int) -> NarrowWeight:
    """A weight of so many rows from whole codes [columns, blocks, block_size], without zero points.

    Args:
        codes: Below 2^bits; 2^(bits - 1) stands for zero.
        scales: [columns, blocks].
        rows: Of the weight; codes past the last are of no effect.
        bits: 2, 4 or 8.
    """
    return NarrowWeight(
        rows=rows,
        columns=codes.shape[0],
        bits=bits,
        block_size=codes.shape[2],
        codes=pack(codes, bits),
        scales=scales,
    )


def block_count(rows: int, block_size: int) -> int:
    """How many blocks a column of so many rows has; the last may be shorter."""
    return -(-rows // block_size)


def pack(codes: Codes, bits: int) -> Codes:
    """Codes below 2^bits, several to a byte along the last axis, whose length must fill bytes."""
    each = 8 // bits
    parts = codes.reshape(*codes.shape[:-1], -1, each)
    shifts = np.arange(each, dtype=np.uint8) * np.uint8(bits)
    packed: Codes = np.bitwise_or.reduce(parts << shifts, axis=-1)
    return packed


def unpack(packed: Codes, bits: int) -> Codes:
    """What `pack` packed; where that did not fill the last byte, with what fills it."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    mask = np.uint8((1 << bits) - 1)
    return ((packed[..., None] >> shifts) & mask).reshape(*packed.shape[:-1], -1)
