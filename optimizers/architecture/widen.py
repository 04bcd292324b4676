"""More units in a layer: copies, among which what reads them is shared (Net2WiderNet)."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from optimizers.architecture.chains import pairs
from optimizers.contract.architecture import Grow
from optimizers.structure.affine import Affine, write_affine
from optimizers.structure.convolution import Convolution, write_convolution
from optimizers.structure.editing import take_over


def widen(model: ir.Model, name: str, step: Grow, random: np.random.Generator) -> str:
    """Widen the layer of this name, and say so."""
    pair = next(pair for pair in pairs(model.graph) if pair.first.name == name)
    first, second = pair.first, pair.second
    width = len(first.kernel) if isinstance(first, Convolution) else first.weight.shape[1]
    extra = max(1, round(width * (step.wider - 1)))
    units = np.concatenate([np.arange(width), random.integers(0, width, extra)])
    shares = _shares(units, step.noise, random)
    _copy_units(first, units)
    _share_rows(second, units, shares)
    common.RemoveUnusedNodesPass()(model)
    return f"{name}: {width} units became {width + extra}"


def _shares(
    units: NDArray[np.int64], noise: float, random: np.random.Generator
) -> NDArray[np.float64]:
    """What each copy counts for; copies of one unit sum to 1 whatever the noise."""
    counts = np.bincount(units)[units]
    moved = random.uniform(-noise, noise, len(units))
    means = (np.bincount(units, moved) / np.bincount(units))[units]
    return (1 + moved - means) / counts


def _copy_units(layer: Affine | Convolution, units: NDArray[np.int64]) -> None:
    if isinstance(layer, Affine):
        bias = None if layer.bias is None else layer.bias[units]
        result = write_affine(layer, layer.source, layer.weight[:, units], bias, layer.name)
    else:
        kernel, bias = layer.kernel[units], layer.bias[units]
        result = write_convolution(layer.node, layer, kernel, bias, name=layer.name)
    take_over(layer.result, result)


def _share_rows(
    layer: Affine | Convolution, units: NDArray[np.int64], shares: NDArray[np.float64]
) -> None:
    if isinstance(layer, Affine):
        weight = layer.weight[units] * shares[:, None]
        result = write_affine(layer, layer.source, weight, layer.bias, layer.name)
    else:
        column = shares.reshape(1, -1, *[1] * (layer.kernel.ndim - 2))
        kernel = layer.kernel[:, units] * column
        result = write_convolution(layer.node, layer, kernel, layer.bias, name=layer.name)
    take_over(layer.result, result)
