"""Rounding that makes up for its own errors, by what a product's inputs look like (GPTQ).

The squared error of x W over the inputs seen is tr(E^T H E) with H = x^T x / n and E the error of
W. Row after row is rounded, and what that row is off by is spread over the rows still to come:
W[j] -= (W[i] - Q[i]) U[i, j] / U[i, i], with U upper triangular and U^T U the inverse of H.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from optimizers.quantization.nbits import Codes, Floats, NarrowWeight, block_count, narrow_weight

_DAMPING: Final = 0.01
"""Share of H's mean diagonal that is added to it, so that it has an inverse."""

Doubles = NDArray[np.float64]


def rounded_for(weight: Floats, moment: Doubles, bits: int, block_size: int) -> NarrowWeight:
    """A weight in codes without zero points.

    Args:
        weight: [rows, columns].
        moment: H, the mean of x^T x over the inputs seen, [rows, rows].
        bits: 2, 4 or 8.
        block_size: Rows of a column that share a scale.
    """
    rows, columns = weight.shape
    blocks, middle = block_count(rows, block_size), 1 << (bits - 1)
    codes = np.full((blocks * block_size, columns), middle, np.uint8)
    scales = np.zeros((blocks, columns), np.float32)
    left, upper = weight.astype(np.float64), _upper(moment)
    for block in range(blocks):
        rows_here = slice(block * block_size, min(rows, (block + 1) * block_size))
        scales[block] = _scales(left[rows_here], middle)
        codes[rows_here], errors = _rounded_block(left, upper, rows_here, scales[block], middle)
        left[rows_here.stop :] -= upper[rows_here, rows_here.stop :].T @ errors
    in_columns = np.ascontiguousarray(codes.T).reshape(columns, blocks, block_size)
    return narrow_weight(in_columns, np.ascontiguousarray(scales.T), rows, bits)


def _upper(moment: Doubles) -> Doubles:
    """The upper triangular U with U^T U the inverse of H, damped; inputs never seen count 1."""
    damped = moment.copy()
    diagonal = np.einsum("ii->i", damped)
    diagonal[diagonal == 0] = 1
    diagonal += _DAMPING * diagonal.mean()
    upper: Doubles = np.linalg.cholesky(np.linalg.inv(damped)).T
    return upper


def _scales(block: Doubles, middle: int) -> Floats:
    """One per column: the weight of largest magnitude becomes the code that reaches furthest."""
    largest = np.take_along_axis(block, np.abs(block).argmax(axis=0)[None], axis=0)[0]
    scales: Floats = (largest / -middle).astype(np.float32)
    return scales


def _rounded_block(
    left: Doubles, upper: Doubles, rows: slice, scales: Floats, middle: int
) -> tuple[Codes, Doubles]:
    """Codes of these rows, and what each was off by, over U[i, i]; changes the rows in `left`."""
    steps = np.where(scales == 0, 1, scales).astype(np.float64)
    codes = np.empty((rows.stop - rows.start, len(scales)), np.uint8)
    errors = np.empty(codes.shape)
    for index, row in enumerate(range(rows.start, rows.stop)):
        codes[index] = np.clip(np.round(left[row] / steps) + middle, 0, 2 * middle - 1)
        stands_for = (codes[index] - float(middle)) * scales
        errors[index] = (left[row] - stands_for) / upper[row, row]
        left[row : rows.stop] -= np.outer(upper[row, row : rows.stop], errors[index])
    return codes, errors
