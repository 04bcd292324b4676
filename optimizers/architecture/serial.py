"""Two linear maps in a row become one where that takes fewer multiplications.

(x W1 + b1) W2 + b2 = x (W1 W2) + (b1 W2 + b2); fewer where m n < m k + k n for W1 [m, k] and
W2 [k, n].
A convolution before a 1x1 convolution is the same with channels for columns.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from optimizers.structure.affine import Affine, affine_maps, read_affine, write_affine
from optimizers.structure.convolution import (
    Convolution,
    convolutions,
    read_convolution,
    write_convolution,
)
from optimizers.structure.editing import only_user, take_over


def merge_serial_maps(model: ir.Model) -> int:
    """Merge until no two maps in a row are left that gain; how many went."""
    count = 0
    while _merge_one(model.graph):
        common.RemoveUnusedNodesPass()(model)
        count += 1
    return count


def _merge_one(graph: ir.Graph) -> bool:
    return any(map(_merge_products, affine_maps(graph))) or any(
        map(_merge_convolutions, convolutions(graph))
    )


def _merge_products(first: Affine) -> bool:
    second = read_affine(only_user(first.result))
    if second is None or second.source is not first.result:
        return False
    outer = second.weight.astype(np.float64)
    weight = first.weight.astype(np.float64) @ outer
    if weight.size >= first.macs + second.macs:
        return False
    shifts = [] if first.bias is None else [first.bias @ outer]
    shifts += [] if second.bias is None else [second.bias]
    bias: NDArray[Any] | None = np.sum(shifts, axis=0) if shifts else None
    take_over(second.result, write_affine(second, first.source, weight, bias, first.name))
    return True


def _merge_convolutions(first: Convolution) -> bool:
    second = read_convolution(only_user(first.result))
    if second is None or second.source is not first.result:
        return False
    outer = second.kernel.reshape(second.kernel.shape[0], -1).astype(np.float64)
    if not second.is_pointwise or first.group != 1 or not _gains(first, second):
        return False
    result = write_convolution(
        second.node,
        first,
        np.tensordot(outer, first.kernel.astype(np.float64), axes=1),
        outer @ first.bias + second.bias,
        name=first.name,
        strides=[one * other for one, other in zip(first.strides, second.strides, strict=True)],
    )
    take_over(second.result, result)
    return True


def _gains(first: Convolution, second: Convolution) -> bool:
    """Whether the product of two kernels takes fewer multiplications than both, a result."""
    skipped = prod(second.strides)
    merged = len(second.kernel) * first.kernel[0].size
    return bool(merged < first.kernel.size * skipped + second.kernel.size)
