"""Steps without a job around them, and the narrow weights of the files that they make."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from optimizers.contract.runtime import Session, SessionSpec
from optimizers.quantization.nbits import NarrowWeight
from tests.support import models

Floats = NDArray[np.float32]

INT8_ACTIVATIONS = 0.03
"""How far int8 products may be from float ones, as a share of the largest answer."""


def normal(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def answers(model: Path, **feeds: NDArray[np.generic]) -> Floats:
    session = Session(model, SessionSpec())
    found: Floats = session.run(feeds)[0]
    session.close()
    return found


def stored(model: Path, operator: str = "MatMulNBits") -> list[NarrowWeight]:
    """The narrow weights of a file, read independently of what wrote them."""
    graph = onnx.load(str(model)).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = []
    for node in graph.node:
        if node.op_type == operator:
            given = {one.name: one.i for one in node.attribute}
            codes, scales, *points = (arrays[name] for name in node.input[1:])
            weight = NarrowWeight(
                rows=given["K"],
                columns=given["N"],
                bits=given["bits"],
                block_size=given["block_size"],
                codes=codes,
                scales=scales,
                zero_points=points[0] if points else None,
            )
            found.append(weight)
    return found


def at_level(model: Path, level: int) -> Path:
    """The same model with products of float activations (0) or int8 ones (4)."""
    loaded = onnx.load(str(model))
    for node in loaded.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = level
    target = model.with_name(f"level{level}.onnx")
    onnx.save(loaded, str(target))
    return target


def product(path: Path, weight: Floats, **attributes: float) -> Path:
    """y = x W as a MatMul, or as a Gemm with these attributes and a bias of 0, 1, 2, ..."""
    columns = weight.shape[0 if attributes.get("transB") else 1]
    rows = weight.shape[1 if attributes.get("transB") else 0]
    operator, inputs = ("Gemm", ["x", "w", "b"]) if attributes else ("MatMul", ["x", "w"])
    node = helper.make_node(operator, inputs, ["y"], name="product")
    node.attribute.extend(helper.make_attribute(*one) for one in attributes.items())
    return models.save(
        path,
        [node],
        [("x", onnx.TensorProto.FLOAT, ["batch", rows])],
        [("y", onnx.TensorProto.FLOAT, ["batch", columns])],
        {"w": weight, **({"b": np.arange(columns, dtype=np.float32)} if attributes else {})},
    )
