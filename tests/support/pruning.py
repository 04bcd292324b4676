"""What a pruned model has to equal: the whole model with zeros where channels went."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from optimizers.pruning.cut import kept_places
from optimizers.pruning.flow.analysis import analyse
from optimizers.pruning.flow.use import Flow
from optimizers.pruning.groups import find_groups


def flow_of(model: onnx.ModelProto, exclude: tuple[str, ...] = ()) -> Flow:
    return analyse(model, exclude)


def answers(model: onnx.ModelProto, items: int = 3, length: int = 5) -> NDArray[np.float32]:
    """Of a model with one input, random numbers or tokens; `length` is that of other free axes."""
    session = onnxruntime.InferenceSession(model.SerializeToString())
    [given] = session.get_inputs()
    free = iter((items, length))
    shape = [next(free) if isinstance(one, str) else one for one in given.shape]
    random = np.random.default_rng(7)
    tokens = given.type == "tensor(int64)"
    x = random.integers(0, 50, shape) if tokens else random.standard_normal(shape)
    feed = x.astype(np.int64 if tokens else np.float32)
    result: NDArray[np.float32] = session.run(None, {given.name: feed})[0]
    return result


def half_of_every_group(flow: Flow) -> NDArray[np.int64]:
    random = np.random.default_rng(3)
    groups = find_groups(flow)
    return np.concatenate([random.permutation(one.roots)[: one.count // 2] for one in groups])


def masked(model: onnx.ModelProto, flow: Flow, removed: NDArray[np.int64]) -> onnx.ModelProto:
    """The whole model, with zeros in what gives the removed channels: rows, biases, scales."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    rows = {(node.input[1], _row_axis(node)) for node in model.graph.node if len(node.input) > 1}
    places = kept_places(flow, removed)
    for tensor in result.graph.initializer:
        value = onnx.numpy_helper.to_array(tensor).copy()
        for axis in range(value.ndim):
            gives = (tensor.name, axis) in rows or value.ndim == 1
            if gives and (tensor.name, axis) in places and not tensor.name.endswith(".var"):
                np.moveaxis(value, axis, 0)[~places[tensor.name, axis]] = 0
        tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    return result


def _row_axis(node: onnx.NodeProto) -> int:
    transposed = any(one.name == "transB" and one.i for one in node.attribute)
    return 0 if node.op_type == "Conv" or transposed else 1
