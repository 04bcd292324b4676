"""Published networks as they come in the onnx wheel: their graphs, with weights drawn at random."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def published(name: str, path: Path) -> Path:
    """Write one of the onnx wheel's `light` models with weights instead of zeros.

    Args:
        name: For example `resnet50`; not one of those that hold weights of their own.
        path: Where to.
    """
    model = onnx.load(str(LIGHT / f"light_{name}.onnx"))
    random = np.random.default_rng(0)
    stored = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    model.ir_version = 8
    for node in list(model.graph.node):
        if node.op_type == "ConstantOfShape":
            shape = stored[node.input[0]]
            values = random.random(shape, np.float32) if len(shape) < 2 else he(random, shape)
            model.graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
            model.graph.node.remove(node)
    onnx.save(model, str(path))
    return path


def he(random: np.random.Generator, shape: NDArray[np.int64]) -> NDArray[np.float32]:
    """Normal weights with a variance of 2 / inputs (He et al., 2015, arXiv:1502.01852)."""
    scale = np.sqrt(2 / np.prod(shape[1:]))
    return np.asarray(random.standard_normal(shape, np.float32) * scale, np.float32)
