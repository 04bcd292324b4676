"""A model whose channels lie far apart, and how its int8 models are made and compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from optimizers.contract.profile import Task
from optimizers.contract.quantization import StaticInt8
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.step import StepContext, StepResult
from optimizers.techniques import apply_step
from tests.support import models
from tests.support.contexts import step_context

Array = NDArray[np.float32]
IMAGES: list[int | str] = ["batch", 3, 10, 10]


def separable(path: Path, *, between: tuple[str, ...] = ("Relu",), spread: float = 1.5) -> Path:
    """Conv, depthwise Conv, Conv, pooling, two Gemms; channels' ranges lie far apart."""
    random = np.random.default_rng(3)

    def weight(outputs: int, *rest: int) -> Array:
        ranges = np.exp(random.normal(0, spread, (outputs, *(1 for _ in rest))))
        values = random.standard_normal((outputs, *rest)) * np.sqrt(2 / np.prod(rest)) * ranges
        return np.asarray(values, np.float32)

    def bias(outputs: int) -> Array:
        return np.asarray(random.normal(0, 0.2, outputs), np.float32)

    weights: dict[str, NDArray[Any]] = {
        "k0": weight(8, 3, 3, 3),
        "b0": bias(8),
        "k1": weight(8, 1, 3, 3),
        "b1": bias(8),
        "k2": weight(12, 8, 1, 1),
        "b2": bias(12),
        "w3": weight(16, 48),
        "b3": bias(16),
        "w4": weight(5, 16).T.copy(),
        "b4": bias(5),
    }
    bounds = {"zero": np.array(0, np.float32), "six": np.array(6, np.float32)}
    weights |= {name: bounds[name] for name in between[1:]}

    def active(index: int) -> onnx.NodeProto:
        return helper.make_node(between[0], [f"s{index}", *between[1:]], [f"h{index}"])

    nodes = [
        helper.make_node("Conv", ["x", "k0", "b0"], ["s0"], name="first"),
        active(0),
        helper.make_node("Conv", ["h0", "k1", "b1"], ["s1"], name="depthwise", group=8),
        active(1),
        helper.make_node("Conv", ["h1", "k2", "b2"], ["s2"], name="pointwise"),
        active(2),
        helper.make_node("MaxPool", ["h2"], ["m"], kernel_shape=[3, 3], strides=[3, 3]),
        helper.make_node("Flatten", ["m"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["s3"], name="wide", transB=1),
        active(3),
        helper.make_node("Gemm", ["h3", "w4", "b4"], ["y"], name="last"),
    ]
    return models.save(
        path,
        nodes,
        [("x", TensorProto.FLOAT, IMAGES)],
        [("y", TensorProto.FLOAT, ["batch", 5])],
        weights,
    )


def pictures(count: int, seed: int = 0) -> Array:
    """Random ones, [count, 3, 10, 10]."""
    return np.random.default_rng(seed).standard_normal((count, 3, 10, 10)).astype(np.float32)


def answer(model: Path, x: Array, spec: SessionSpec | None = None) -> Array:
    """The only output of a model whose only input is x."""
    session = Session(model, spec or SessionSpec())
    [found] = session.run({"x": x})
    session.close()
    return np.asarray(found)


def decibels(wanted: Array, found: Array) -> float:
    """Signal-to-noise ratio, number by number."""
    noise = sum(float(a - b) ** 2 for a, b in zip(wanted.flat, found.flat, strict=True))
    return float(10 * np.log10(sum(float(a) ** 2 for a in wanted.flat) / noise))


def calibrated(tmp_path: Path) -> StepContext:
    """What a step gets whose calibration data are 48 pictures."""
    np.savez(tmp_path / "calibration.npz", x=pictures(48))
    return step_context(
        tmp_path, task=Task.CLASSIFICATION, data={"calibration": tmp_path / "calibration.npz"}
    )


def quantised(model: Path, step: StaticInt8, context: StepContext) -> StepResult:
    """Like `apply_step`, with a file that the next one does not write over."""
    result = apply_step(model, step, context)
    kept = model.with_name(f"{len(list(model.parent.iterdir()))}.onnx")
    kept.write_bytes(result.model.read_bytes())
    return replace(result, model=kept)
