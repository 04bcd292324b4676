"""More layers: each starts as identity, for relu(I relu(x)) = relu(x) (Net2DeeperNet)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import onnx_ir as ir

from optimizers.architecture.chains import layers, relu_after
from optimizers.structure.affine import Affine, write_affine
from optimizers.structure.convolution import Convolution, write_convolution
from optimizers.structure.editing import insert

_SIDE: Final = 3
"""Of a new convolution's kernel, along every axis."""


def deepen(model: ir.Model, count: int) -> list[str]:
    """Put a layer after each of the first Relus; names of the layers before them.

    Args:
        model: Changed in place.
        count: Most layers to put in. A Relu that gives an output of the model is passed over.
    """
    done: list[str] = []
    for layer in layers(model.graph):
        relu = relu_after(layer)
        if len(done) == count:
            break
        if relu is not None and not relu.outputs[0].is_graph_output():
            _put_after(relu, layer)
            done.append(layer.name)
    return done


def _put_after(relu: ir.Node, layer: Affine | Convolution) -> None:
    activation = relu.outputs[0]
    uses = [(use.node, use.idx) for use in activation.uses()]
    name = f"{layer.name}.deeper"
    if isinstance(layer, Affine):
        width = layer.weight.shape[1]
        made = write_affine(layer, activation, np.eye(width), np.zeros(width), name)
    else:
        made = _identity(layer, activation, name)
    again = insert(
        layer.node if isinstance(layer, Convolution) else layer.product,
        ir.node("Relu", [made], name=f"{name}.relu"),
    )
    for node, index in uses:
        node.replace_input_with(index, again)


def _identity(layer: Convolution, source: ir.Value, name: str) -> ir.Value:
    channels, axes = len(layer.kernel), layer.kernel.ndim - 2
    middle = np.zeros([_SIDE] * axes)
    middle[tuple([_SIDE // 2] * axes)] = 1
    kernel = np.multiply.outer(np.eye(channels), middle)
    plain = replace(
        layer,
        group=1,
        strides=[1] * axes,
        dilations=[1] * axes,
        pads=[_SIDE // 2] * 2 * axes,
    )
    bias = np.zeros(channels)
    return write_convolution(layer.node, plain, kernel, bias, name=name, source=source)
