"""BatchNormalization after a linear operator becomes part of it.

W' = W gamma / sqrt(var + eps), b' = (b - mean) gamma / sqrt(var + eps) + beta, a channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from optimizers.structure.affine import Affine, affine_maps, write_affine
from optimizers.structure.convolution import Convolution, convolutions, write_convolution
from optimizers.structure.editing import constant, integer, number, only_user, take_over


@dataclass(frozen=True, slots=True)
class Normalization:
    """y = x scale + shift, a channel.

    Attributes:
        node: The BatchNormalization.
        scale: gamma / sqrt(var + eps), float64 [channels].
        shift: beta - mean scale, float64 [channels].
    """

    node: ir.Node
    scale: NDArray[np.float64]
    shift: NDArray[np.float64]


def read_normalization(node: ir.Node | None) -> Normalization | None:
    """What a BatchNormalization with constant statistics computes; None for others."""
    if node is None or node.domain or node.op_type != "BatchNormalization":
        return None
    given = [constant(value) for value in node.inputs[1:5]]
    arrays = [array.astype(np.float64) for array in given if array is not None]
    is_training = integer(node, "training_mode", 0) or any(out.uses() for out in node.outputs[1:])
    if len(arrays) != 4 or is_training:
        return None
    gamma, beta, mean, var = arrays
    scale = gamma / np.sqrt(var + number(node, "epsilon", 1e-5))
    return Normalization(node, scale, beta - mean * scale)


def merge_batch_norms(model: ir.Model) -> int:
    """Fold every BatchNormalization that can be, also several in a row; how many were."""
    count = 0
    while folded := _fold(model.graph):
        common.RemoveUnusedNodesPass()(model)
        count += folded
    return count


def _fold(graph: ir.Graph) -> int:
    count = 0
    for convolution in convolutions(graph):
        normalization = read_normalization(only_user(convolution.result))
        if normalization is not None:
            _into_convolution(convolution, normalization)
            count += 1
    for affine in affine_maps(graph):
        normalization = read_normalization(only_user(affine.result))
        if normalization is not None and _has_two_axes(affine):
            _into_affine(affine, normalization)
            count += 1
    return count


def _has_two_axes(affine: Affine) -> bool:
    """Whether channels are the last axis for both; with more axes they are for the map only."""
    source = affine.source.shape
    return affine.product.op_type == "Gemm" or (source is not None and len(source) == 2)


def _into_convolution(convolution: Convolution, by: Normalization) -> None:
    column = by.scale.reshape(-1, *[1] * (convolution.kernel.ndim - 1))
    result = write_convolution(
        convolution.node,
        convolution,
        convolution.kernel * column,
        convolution.bias * by.scale + by.shift,
        name=convolution.name,
    )
    take_over(by.node.outputs[0], result)


def _into_affine(affine: Affine, by: Normalization) -> None:
    bias: NDArray[Any] | float = 0.0 if affine.bias is None else affine.bias
    result = write_affine(
        affine,
        affine.source,
        affine.weight * by.scale,
        bias * by.scale + by.shift,
        affine.name,
    )
    take_over(by.node.outputs[0], result)
