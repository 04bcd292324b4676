"""Small ONNX models, each with one property that a test needs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 20


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[tuple[str, int, Sequence[int | str]]],
    outputs: Sequence[tuple[str, int, Sequence[int | str]]],
    weights: dict[str, NDArray[Any]] | None = None,
    *,
    opset: int = OPSET,
) -> Path:
    """Write a model made of `nodes`."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs],
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in outputs],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
    return path


def linear(
    path: Path, *, inputs: int = 4, outputs: int = 3, factor: float = 1.0, seed: int = 0
) -> Path:
    """y [batch, outputs] = x [batch, inputs] @ W * factor + b."""
    random = np.random.default_rng(seed)
    weight = random.standard_normal((inputs, outputs)).astype(np.float32) * np.float32(factor)
    bias = np.arange(outputs, dtype=np.float32)
    return save(
        path,
        [helper.make_node("Gemm", ["x", "weight", "bias"], ["y"], name="gemm")],
        [("x", TensorProto.FLOAT, ["batch", inputs])],
        [("y", TensorProto.FLOAT, ["batch", outputs])],
        {"weight": weight, "bias": bias},
    )


def identity(path: Path, kind: int, shape: Sequence[int | str] = ("batch", 3)) -> Path:
    """y = x, of any datatype."""
    return save(
        path,
        [helper.make_node("Identity", ["x"], ["y"])],
        [("x", kind, shape)],
        [("y", kind, shape)],
    )


def two_inputs(path: Path) -> Path:
    """sum = a + b and difference = a - b, all [batch, n] with n variable."""
    shape = ["batch", "n"]
    return save(
        path,
        [
            helper.make_node("Add", ["a", "b"], ["sum"]),
            helper.make_node("Sub", ["a", "b"], ["difference"]),
        ],
        [("a", TensorProto.FLOAT, shape), ("b", TensorProto.FLOAT, shape)],
        [("sum", TensorProto.FLOAT, shape), ("difference", TensorProto.FLOAT, shape)],
    )


def free_widths(path: Path) -> Path:
    """sum [batch] = row sums of a plus row sums of b, both [batch, any width]."""
    axis = np.array([1], np.int64)
    return save(
        path,
        [
            helper.make_node("ReduceSum", ["a", "axis"], ["of_a"], keepdims=0),
            helper.make_node("ReduceSum", ["b", "axis"], ["of_b"], keepdims=0),
            helper.make_node("Add", ["of_a", "of_b"], ["sum"]),
        ],
        [
            ("a", TensorProto.FLOAT, ["batch", "width_of_a"]),
            ("b", TensorProto.FLOAT, ["batch", "width_of_b"]),
        ],
        [("sum", TensorProto.FLOAT, ["batch"])],
        {"axis": axis},
    )


def masked_mean(path: Path, *, uses_mask: bool = True, width: int = 8) -> Path:
    """hidden [batch, n, width] of tokens [batch, n], and mean [batch, width] where mask is 1.

    Without `uses_mask`, the mean is over all n, whatever the mask says.
    """
    table = np.random.default_rng(0).standard_normal((100, width)).astype(np.float32)
    if uses_mask:
        nodes = [
            helper.make_node("Cast", ["mask"], ["weight"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["weight", "last"], ["column"]),
            helper.make_node("Mul", ["hidden", "column"], ["masked"]),
            helper.make_node("ReduceSum", ["masked", "axis"], ["sum"], keepdims=0),
            helper.make_node("ReduceSum", ["weight", "axis"], ["count"]),
            helper.make_node("Div", ["sum", "count"], ["mean"]),
        ]
    else:
        nodes = [helper.make_node("ReduceMean", ["hidden", "axis"], ["mean"], keepdims=0)]
    return save(
        path,
        [helper.make_node("Gather", ["table", "tokens"], ["hidden"]), *nodes],
        [
            ("tokens", TensorProto.INT64, ["batch", "n"]),
            ("mask", TensorProto.INT64, ["batch", "n"]),
        ],
        [
            ("hidden", TensorProto.FLOAT, ["batch", "n", width]),
            ("mean", TensorProto.FLOAT, ["batch", width]),
        ],
        {"table": table, "axis": np.array([1], np.int64), "last": np.array([2], np.int64)},
    )


def reduced(path: Path, operation: str) -> Path:
    """y [batch] = x [batch, n] reduced by an operator such as ReduceMax."""
    return save(
        path,
        [helper.make_node(operation, ["x", "axis"], ["y"], keepdims=0)],
        [("x", TensorProto.FLOAT, ["batch", "n"])],
        [("y", TensorProto.FLOAT, ["batch"])],
        {"axis": np.array([1], np.int64)},
    )


def with_positions(path: Path, *, most: int) -> Path:
    """y = x [batch, n] + the first n of `most` numbers; longer inputs cannot be run."""
    return save(
        path,
        [
            helper.make_node("Shape", ["x"], ["shape"], start=1),
            helper.make_node("Squeeze", ["shape"], ["n"]),
            helper.make_node("Range", ["zero", "n", "one"], ["places"]),
            helper.make_node("Gather", ["table", "places"], ["numbers"]),
            helper.make_node("Add", ["x", "numbers"], ["y"]),
        ],
        [("x", TensorProto.FLOAT, ["batch", "n"])],
        [("y", TensorProto.FLOAT, ["batch", "n"])],
        {
            "table": np.linspace(0, 1, most, dtype=np.float32),
            "zero": np.array(0, np.int64),
            "one": np.array(1, np.int64),
        },
    )


def lookup(path: Path, *, most: int) -> Path:
    """y [batch] = the squares of x [batch]; others than the first `most` numbers fail the run."""
    return save(
        path,
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        [("x", TensorProto.INT64, ["batch"])],
        [("y", TensorProto.INT64, ["batch"])],
        {"table": np.arange(most, dtype=np.int64) ** 2},
    )


def slow(path: Path, *, width: int = 512, rounds: int = 400) -> Path:
    """One row takes tens of milliseconds: a loop of products that nothing can fold."""
    weight = np.eye(width, dtype=np.float32)
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["h_in", "weight"], ["h_out"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h_in", TensorProto.FLOAT, ["batch", width]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h_out", TensorProto.FLOAT, ["batch", width]),
        ],
    )
    return save(
        path,
        [helper.make_node("Loop", ["rounds", "", "x"], ["y"], body=body)],
        [("x", TensorProto.FLOAT, ["batch", width])],
        [("y", TensorProto.FLOAT, ["batch", width])],
        {"weight": weight, "rounds": np.array(rounds, dtype=np.int64)},
    )


def perceptron(path: Path, *, sizes: Sequence[int] = (16, 64, 64, 4), seed: int = 0) -> Path:
    """logits [batch, sizes[-1]] of random but fixed layers with ReLU between them."""
    random = np.random.default_rng(seed)
    nodes, weights, value = [], {}, "x"
    for index, (rows, columns) in enumerate(itertools.pairwise(sizes)):
        scale = np.sqrt(2 / rows)
        weights[f"w{index}"] = (random.standard_normal((rows, columns)) * scale).astype(np.float32)
        weights[f"b{index}"] = (random.standard_normal(columns) * 0.1).astype(np.float32)
        last = index == len(sizes) - 2
        result = "logits" if last else f"sum{index}"
        nodes += [
            helper.make_node("MatMul", [value, f"w{index}"], [f"p{index}"], name=f"matmul{index}"),
            helper.make_node("Add", [f"p{index}", f"b{index}"], [result], name=f"add{index}"),
        ]
        if not last:
            value = f"h{index}"
            nodes.append(helper.make_node("Relu", [result], [value], name=f"relu{index}"))
    return save(
        path,
        nodes,
        [("x", TensorProto.FLOAT, ["batch", sizes[0]])],
        [("logits", TensorProto.FLOAT, ["batch", sizes[-1]])],
        weights,
    )


def convolutional(path: Path, *, classes: int = 4, channels: int = 6, seed: int = 0) -> Path:
    """logits [batch, classes] of a small convolutional net over x [batch, 1, 12, 12]."""
    random = np.random.default_rng(seed)

    def weight(*shape: int) -> NDArray[np.float32]:
        scale = np.sqrt(2 / np.prod(shape[1:]))
        return np.asarray(random.standard_normal(shape) * scale, dtype=np.float32)

    return save(
        path,
        [
            helper.make_node("Conv", ["x", "k0", "c0"], ["s0"], name="conv0"),
            helper.make_node("Relu", ["s0"], ["h0"], name="relu0"),
            helper.make_node(
                "MaxPool", ["h0"], ["m0"], name="pool0", kernel_shape=[2, 2], strides=[2, 2]
            ),
            helper.make_node("Flatten", ["m0"], ["f0"], name="flatten0"),
            helper.make_node("Gemm", ["f0", "w1", "b1"], ["logits"], name="gemm1"),
        ],
        [("x", TensorProto.FLOAT, ["batch", 1, 12, 12])],
        [("logits", TensorProto.FLOAT, ["batch", classes])],
        {
            "k0": weight(channels, 1, 3, 3),
            "c0": np.zeros(channels, np.float32),
            "w1": weight(classes, 25 * channels).T.copy(),
            "b1": np.zeros(classes, np.float32),
        },
    )
