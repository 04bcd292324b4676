"""Ways in which a variant goes wrong, each planted into a model that was fine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Fault = Callable[[onnx.ModelProto], None]


def planted(source: Path, target: Path, fault: Fault) -> Path:
    """A copy of a model with a fault in it."""
    model = onnx.load(str(source))
    fault(model)
    onnx.save(model, str(target))
    return target


def _weights(model: onnx.ModelProto, kind: int, rank: int) -> list[onnx.TensorProto]:
    return [
        tensor
        for tensor in model.graph.initializer
        if tensor.data_type == kind and len(tensor.dims) == rank
    ]


def _rename_output(model: onnx.ModelProto) -> tuple[str, str]:
    """Free the output's name for a node put behind; the inner name and the outer one."""
    outer = model.graph.output[0].name
    inner = f"{outer}_before"
    for node in model.graph.node:
        node.output[:] = [inner if name == outer else name for name in node.output]
    return inner, outer


def _add_batch_mean(model: onnx.ModelProto, inner: str) -> None:
    """`batch_mean` becomes the mean of `inner` over the batch."""
    axis = _add_weight(model, "batch_axis", np.array([0], np.int64))
    node = helper.make_node("ReduceMean", [inner, axis], ["batch_mean"], keepdims=1)
    model.graph.node.append(node)


def _add_weight(model: onnx.ModelProto, name: str, value: object) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def flipped_bits(model: onnx.ModelProto) -> None:
    """The sign bit of one int8 weight in fifty is flipped."""
    for tensor in _weights(model, TensorProto.INT8, 2):
        array = numpy_helper.to_array(tensor).copy()
        array.view(np.uint8).reshape(-1)[::50] ^= 0x80
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def scale_too_large(model: onnx.ModelProto) -> None:
    """The weight scales of one layer are multiplied by 1.2."""
    tensor = next(one for one in model.graph.initializer if one.name == "w1_scale")
    array = numpy_helper.to_array(tensor) * np.float32(1.2)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def swapped_outputs(model: onnx.ModelProto) -> None:
    """Two classes have changed places."""
    inner, outer = _rename_output(model)
    order = _add_weight(model, "order", np.array([1, 0, 2, 3], np.int64))
    model.graph.node.append(helper.make_node("Gather", [inner, order], [outer], axis=1))


def nan_on_a_rare_input(model: onnx.ModelProto) -> None:
    """NaN wherever the first feature is above 2.5, which one item in a few hundred is."""
    inner, outer = _rename_output(model)
    columns = _add_weight(model, "first_column", np.array([0], np.int64))
    limit = _add_weight(model, "rare", np.float32(2.5))
    zero = _add_weight(model, "nothing", np.float32(0))
    model.graph.node.extend(
        [
            helper.make_node("Gather", ["x", columns], ["first"], axis=1),
            helper.make_node("Sub", [limit, "first"], ["room"]),
            helper.make_node("Sqrt", ["room"], ["root"]),
            helper.make_node("Mul", ["root", zero], ["nothing_or_nan"]),
            helper.make_node("Add", [inner, "nothing_or_nan"], [outer]),
        ]
    )


def lost_bias(model: onnx.ModelProto) -> None:
    """The last layer's bias is gone."""
    tensor = next(one for one in model.graph.initializer if one.name == "b2")
    array = numpy_helper.to_array(tensor) * np.float32(0)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def favoured_class(model: onnx.ModelProto) -> None:
    """The first score is always 0.15 too large, which decides close calls only."""
    inner, outer = _rename_output(model)
    favour = _add_weight(model, "favour", np.array([0.15, 0, 0, 0], np.float32))
    model.graph.node.append(helper.make_node("Add", [inner, favour], [outer]))


def lost_activation(model: onnx.ModelProto) -> None:
    """The first ReLU lets everything through."""
    node = next(one for one in model.graph.node if one.op_type == "Relu")
    node.op_type = "Identity"


def constant_answer(model: onnx.ModelProto) -> None:
    """Every answer is zero times what it was."""
    inner, outer = _rename_output(model)
    zero = _add_weight(model, "zero", np.float32(0))
    model.graph.node.append(helper.make_node("Mul", [inner, zero], [outer]))


def saturated(model: onnx.ModelProto) -> None:
    """Answers are cut off at a small number."""
    inner, outer = _rename_output(model)
    low, high = (
        _add_weight(model, name, np.float32(value))
        for name, value in (("low", -0.05), ("high", 0.05))
    )
    model.graph.node.append(helper.make_node("Clip", [inner, low, high], [outer]))


def depends_on_neighbours(model: onnx.ModelProto) -> None:
    """The mean over the batch is taken off, so that an answer alone is always zero."""
    inner, outer = _rename_output(model)
    _add_batch_mean(model, inner)
    model.graph.node.extend(
        [
            helper.make_node("Sub", [inner, "batch_mean"], [outer]),
        ]
    )


def wrong_in_company(model: onnx.ModelProto) -> None:
    """An answer alone is right; in a batch the others' answers are in it a hundred times."""
    inner, outer = _rename_output(model)
    _add_batch_mean(model, inner)
    many = _add_weight(model, "many", np.float32(100))
    model.graph.node.extend(
        [
            helper.make_node("Sub", ["batch_mean", inner], ["others"]),
            helper.make_node("Mul", ["others", many], ["many_others"]),
            helper.make_node("Add", [inner, "many_others"], [outer]),
        ]
    )


def infinite_in_company(model: onnx.ModelProto) -> None:
    """An answer alone is right; in a batch it is infinite."""
    inner, outer = _rename_output(model)
    _add_batch_mean(model, inner)
    huge = _add_weight(model, "huge", np.float32(1e38))
    model.graph.node.extend(
        [
            helper.make_node("Sub", ["batch_mean", inner], ["others"]),
            helper.make_node("Mul", ["others", huge], ["huge_others"]),
            helper.make_node("Mul", ["huge_others", huge], ["infinite_others"]),
            helper.make_node("Add", [inner, "infinite_others"], [outer]),
        ]
    )


def some_a_hundredfold(model: onnx.ModelProto) -> None:
    """Every answer to a first feature above 0.18, 43 % of them, is a hundred times too large."""
    inner, outer = _rename_output(model)
    columns = _add_weight(model, "first_column", np.array([0], np.int64))
    limit = _add_weight(model, "limit", np.float32(0.18))
    one, many = (
        _add_weight(model, name, np.float32(value)) for name, value in (("one", 1), ("many", 100))
    )
    model.graph.node.extend(
        [
            helper.make_node("Gather", ["x", columns], ["first"], axis=1),
            helper.make_node("Greater", ["first", limit], ["is_above"]),
            helper.make_node("Where", ["is_above", many, one], ["factor"]),
            helper.make_node("Mul", [inner, "factor"], [outer]),
        ]
    )


def all_a_fifth_larger(model: onnx.ModelProto) -> None:
    """Every answer points where it did and is 1.2 times as long."""
    inner, outer = _rename_output(model)
    factor = _add_weight(model, "factor", np.float32(1.2))
    model.graph.node.append(helper.make_node("Mul", [inner, factor], [outer]))


def right_label(model: onnx.ModelProto) -> None:
    """No fault: a second output names the class with the highest score."""
    _add_label(model, "ArgMax")


def wrong_label(model: onnx.ModelProto) -> None:
    """The second output names the class with the lowest score."""
    _add_label(model, "ArgMin")


def only_a_label(model: onnx.ModelProto) -> None:
    """No fault: the class is the only output."""
    _add_label(model, "ArgMax")
    del model.graph.output[0]


def only_a_wrong_label(model: onnx.ModelProto) -> None:
    """The only output names the class with the lowest score."""
    _add_label(model, "ArgMin")
    del model.graph.output[0]


def _add_label(model: onnx.ModelProto, operator: str) -> None:
    scores = model.graph.output[0].name
    model.graph.node.append(helper.make_node(operator, [scores], ["label"], axis=1, keepdims=0))
    model.graph.output.append(helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]))


def masked(model: onnx.ModelProto) -> None:
    """No fault: the last score is minus infinity in every answer."""
    inner, outer = _rename_output(model)
    mask = np.array([0, 0, 0, -np.inf], np.float32)
    model.graph.node.append(helper.make_node("Add", [inner, "mask"], [outer]))
    _add_weight(model, "mask", mask)


def renamed_output(model: onnx.ModelProto) -> None:
    """Callers would not find the output."""
    inner, outer = _rename_output(model)
    model.graph.node.append(helper.make_node("Identity", [inner], [f"{outer}_new"]))
    model.graph.output[0].name = f"{outer}_new"


def infinite_weight(model: onnx.ModelProto) -> None:
    """One bias is infinite."""
    tensor = next(one for one in model.graph.initializer if one.name == "b0")
    array = numpy_helper.to_array(tensor).copy()
    array[0] = np.inf
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def slow_node(model: onnx.ModelProto) -> None:
    """A product of large matrices whose result is thrown away but cannot be folded."""
    inner, outer = _rename_output(model)
    large = _add_weight(model, "large", np.ones((64, 64), np.float32))
    columns = _add_weight(model, "some_columns", np.array([0], np.int64))
    rows = _add_weight(model, "row_of_one", np.array([1, 64], np.int64))
    zero = _add_weight(model, "nothing", np.float32(0))
    axis = _add_weight(model, "last_axis", np.array([1], np.int64))
    nodes = [
        helper.make_node("Gather", ["x", columns], ["slow_first"], axis=1),
        helper.make_node("Mul", ["slow_first", zero], ["slow_zero"]),
        helper.make_node("Expand", ["slow_zero", rows], ["slow_0"]),
    ]
    nodes += [
        helper.make_node("MatMul", [f"slow_{index}", large], [f"slow_{index + 1}"])
        for index in range(60)
    ]
    nodes += [
        helper.make_node("ReduceMax", ["slow_60", axis], ["slow_end"], keepdims=1),
        helper.make_node("Add", [inner, "slow_end"], [outer]),
    ]
    model.graph.node.extend(nodes)


def conversions_that_do_not_fuse(model: onnx.ModelProto) -> None:
    """Activations go to int8 and back before products that stay in floating point."""
    scale = _add_weight(model, "step", np.float32(0.05))
    middle = _add_weight(model, "middle", np.uint8(128))
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type == "MatMul":
            source, stem = node.input[0], node.output[0]
            nodes += [
                helper.make_node("QuantizeLinear", [source, scale, middle], [f"{stem}_q"]),
                helper.make_node("DequantizeLinear", [f"{stem}_q", scale, middle], [f"{stem}_dq"]),
            ]
            node.input[0] = f"{stem}_dq"
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
