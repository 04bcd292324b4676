"""The mean output of every channel of a layer, measured on data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from optimizers.calibration import Arrays, fitting_batches, item_count
from optimizers.contract.runtime import SessionSpec, session_options, signature_of
from optimizers.saving import saved

Means = dict[str, NDArray[np.float64]]
"""Layer → mean of each of its output channels, float64 [channels]."""


def channel_means(model: onnx.ModelProto, layers: Sequence[str], items: Arrays) -> Means:
    """Run the model and average each layer's outputs over items and positions.

    Args:
        model: Stays untouched.
        layers: Names of nodes whose outputs are floats; channels are axis 1 of a Conv's output,
            the last axis of another's.
        items: What it is run on, but for those after the last full batch where that is fixed.
    """
    if not layers:
        return {}
    nodes = {node.name: node for node in model.graph.node if node.name in layers}
    outputs = [nodes[name].output[0] for name in layers]
    session = _session_of(model, outputs)
    wanted = [value.name for value in session.get_inputs()]
    fed = {name: array for name, array in items.items() if name in wanted}
    sums, done = {name: np.zeros(1) for name in layers}, 0
    for part in fitting_batches(fed, signature_of(session), 1):
        for name, values in zip(layers, session.run(None, part), strict=True):
            sums[name] = sums[name] + item_count(part) * _of_one_run(nodes[name], values)
        done += item_count(part)
    return {name: total / done for name, total in sums.items()}


def _session_of(model: onnx.ModelProto, outputs: Sequence[str]) -> onnxruntime.InferenceSession:
    """A session that computes these values and nothing that they do not need."""
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    del cut.graph.output[:]
    cut.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs
    )
    with saved(cut) as path:
        return onnxruntime.InferenceSession(
            str(path), session_options(SessionSpec()), ["CPUExecutionProvider"]
        )


def _of_one_run(node: onnx.NodeProto, values: NDArray[np.float32]) -> NDArray[np.float64]:
    """The first axis is averaged as well: a product may take the rows of an item for items."""
    axis = 1 if node.op_type == "Conv" else values.ndim - 1
    others = tuple(other for other in range(values.ndim) if other != axis)
    means: NDArray[np.float64] = values.mean(axis=others, dtype=np.float64)
    return means
