"""Bias correction (Nagel et al. 2019, arXiv 1906.04721, section 4.2), measured on data.

Rounding weights shifts the mean of a layer's outputs: with quantised weights W~ = W + e and input
x, E[W~ x] = E[W x] + e E[x]. The shift of every output channel is measured and taken off the
bias, layer by layer from the inputs on, each measured with those before it corrected already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from optimizers.calibration import Arrays
from optimizers.quantization.channel_means import Means, channel_means
from optimizers.saving import save

_LEAST, _MOST = np.iinfo(np.int32).min, np.iinfo(np.int32).max
_MAY_HAVE_BIAS: Final = ("Conv", "Gemm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Corrected:
    """What was done.

    Attributes:
        layers: Quantised layers whose bias was corrected.
        without: Names of those that have no bias of their own.
        before: Mean |shift| of a channel's mean output, over all corrected layers.
        after: The same, measured again once all were corrected.
    """

    layers: int
    without: tuple[str, ...]
    before: float
    after: float

    def __str__(self) -> str:
        without = (
            f"; without a bias of their own: {', '.join(self.without)}" if self.without else ""
        )
        return (
            f"corrected the bias of {self.layers} layers: mean outputs were {self.before:.3g} off, "
            f"now {self.after:.3g}{without}"
        )


@dataclass(frozen=True, slots=True)
class _Bias:
    """A stored bias, int32 [channels], and the float that one of its steps stands for."""

    tensor: onnx.TensorProto
    scale: onnx.TensorProto


def give_biases(model: Path) -> None:
    """Give every Conv and Gemm with a constant weight a bias of zeros where it has none."""
    loaded = onnx.load(str(model))
    shapes = {tensor.name: tensor.dims for tensor in loaded.graph.initializer}
    for node in loaded.graph.node:
        if node.op_type in _MAY_HAVE_BIAS and len(node.input) == 2 and node.input[1] in shapes:
            shape = shapes[node.input[1]]
            is_transposed = any(one.name == "transB" and one.i for one in node.attribute)
            channels = shape[0 if node.op_type == "Conv" or is_transposed else 1]
            name = f"{node.output[0]}_zero_bias"
            zeros = numpy_helper.from_array(np.zeros(channels, np.float32), name)
            loaded.graph.initializer.append(zeros)
            node.input.append(name)
    save(loaded, model)


def correct_biases(
    prepared: Path,
    integers: Path,
    target: Path,
    layers: Sequence[str],
    items: Arrays,
    report: Callable[[float], None],
) -> Corrected:
    """Take the mean shift of each quantised layer off its bias.

    Args:
        prepared: The floating-point model.
        integers: The int8 model made of it, with the same node names.
        target: Where the corrected int8 model goes.
        layers: Names of the quantised layers.
        items: What both are run on.
        report: Takes the share that is done, in [0, 1].
    """
    model = onnx.load(str(integers))
    biases = _biases(model.graph, layers)
    ordered = [node.name for node in model.graph.node if node.name in biases]
    wanted = channel_means(onnx.load(str(prepared)), ordered, items)
    before = _mean_shift(channel_means(model, ordered, items), wanted)
    for done, name in enumerate(ordered, start=1):
        # Only this layer's output is asked for: all before it stay fused, as they will be served.
        found = channel_means(model, [name], items)
        _take_off(biases[name], found[name] - wanted[name])
        report(done / len(ordered))
    after = _mean_shift(channel_means(model, ordered, items), wanted)
    save(model, target)
    without = tuple(name for name in layers if name not in biases)
    return Corrected(layers=len(ordered), without=without, before=before, after=after)


def copy_biases(source: Path, target: Path, layers: Sequence[str]) -> None:
    """Give layers of one int8 model the stored biases that another model of them has.

    Args:
        source: An int8 model whose biases were corrected.
        target: One with the same ranges, perhaps with fewer quantised layers; written in place.
        layers: Names of the quantised layers of `source`.
    """
    model = onnx.load(str(target))
    corrected = _biases(onnx.load(str(source)).graph, layers)
    for name, bias in _biases(model.graph, layers).items():
        if name in corrected:
            bias.tensor.CopyFrom(corrected[name].tensor)
    save(model, target)


def _biases(graph: onnx.GraphProto, layers: Sequence[str]) -> dict[str, _Bias]:
    """Layer → its stored bias, where it has one that nothing else reads."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    uses = [name for node in graph.node for name in node.input]
    found = {}
    for node in graph.node:
        if node.name not in layers or len(node.input) < 3 or _beta(node) != 1:
            continue
        maker = makers.get(node.input[2])
        if maker is None or maker.op_type != "DequantizeLinear" or maker.input[0] not in stored:
            continue
        tensor = stored[maker.input[0]]
        is_own = uses.count(node.input[2]) == 1 and uses.count(tensor.name) == 1
        if is_own and tensor.data_type == onnx.TensorProto.INT32:
            found[node.name] = _Bias(tensor, stored[maker.input[1]])
    return found


def _take_off(bias: _Bias, shift: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> None:
    scale = numpy_helper.to_array(bias.scale).astype(np.float64)
    steps = np.rint(numpy_helper.to_array(bias.tensor) - shift / scale)
    kept = np.clip(steps, _LEAST, _MOST).astype(np.int32)
    bias.tensor.CopyFrom(numpy_helper.from_array(kept, bias.tensor.name))


def _beta(node: onnx.NodeProto) -> float:
    values = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    return float(values.get("beta", 1.0))


def _mean_shift(found: Means, wanted: Means) -> float:
    shifts = [np.abs(found[name] - wanted[name]).mean() for name in wanted]
    return float(np.mean(shifts)) if shifts else 0.0
