"""Quantised products that never reach an integer kernel are found wherever they hide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from optimizers.contract.runtime import Session, SessionSpec
from optimizers.evaluation.lint import lint, optimized_graph
from tests.support import faults, models

CHANNELS = 16
LEVELS: list[Literal["all", "extended", "basic", "disabled"]] = [
    "all",
    "extended",
    "basic",
    "disabled",
]


def convolution_behind_conversions(
    path: Path, between: Sequence[onnx.NodeProto] = (), *, stored: str = "integers"
) -> Path:
    """Activations go to int8 and back, through what lies `between`, to a float convolution.

    Its kernel is stored in int8, or with `stored` not "integers" in floating point.

    With 16 channels onnxruntime puts a change of layout before the convolution.
    """
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "step", "middle"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "step", "middle"], ["a"]),
        *between,
        helper.make_node("DequantizeLinear", ["integers", "step", "zero"], ["kernel"]),
        helper.make_node("Conv", ["b" if between else "a", "kernel"], ["y"], pads=[1, 1, 1, 1]),
    ]
    if stored != "integers":
        del nodes[-2]
    shape: list[int | str] = ["batch", CHANNELS, 8, 8]
    integers = np.random.default_rng(0).integers(-60, 60, (CHANNELS, CHANNELS, 3, 3), np.int8)
    kernel = {"integers": integers, "zero": np.array(0, np.int8)}
    if stored != "integers":
        kernel = {"kernel": (integers * 0.05).astype(np.float32)}
    return models.save(
        path,
        nodes,
        [("x", TensorProto.FLOAT, shape)],
        [("y", TensorProto.FLOAT, ["batch", CHANNELS, "height", "width"])],
        {
            **kernel,
            "step": np.array(0.05, np.float32),
            "middle": np.array(128, np.uint8),
        },
    )


def broken(original: Path, variant: Path, spec: SessionSpec) -> list[str]:
    session = Session(original, SessionSpec())
    session.close()
    return [text for held, text in lint(original, session.signature, variant, spec) if not held]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    "between",
    [
        (),
        (helper.make_node("MaxPool", ["a"], ["b"], kernel_shape=[2, 2]),),
        (
            helper.make_node("Transpose", ["a"], ["t"], perm=[0, 1, 3, 2]),
            helper.make_node("Identity", ["t"], ["b"]),
        ),
    ],
    ids=["at once", "pooled", "turned"],
)
def test_a_float_convolution_behind_conversions_is_refused(
    tmp_path: Path,
    level: Literal["all", "extended", "basic", "disabled"],
    between: tuple[onnx.NodeProto, ...],
) -> None:
    model = convolution_behind_conversions(tmp_path / "model.onnx", between)
    [text] = broken(model, model, SessionSpec(optimization=level))
    assert "1 products stay in floating point behind DequantizeLinear" in text


@pytest.mark.parametrize("level", LEVELS)
def test_a_convolution_that_was_left_in_floating_point_on_purpose_is_none_of_them(
    tmp_path: Path, level: Literal["all", "extended", "basic", "disabled"]
) -> None:
    variant = convolution_behind_conversions(tmp_path / "variant.onnx", stored="floats")
    assert broken(variant, variant, SessionSpec(optimization=level)) == []


def test_the_graph_is_the_one_that_the_session_would_run(tmp_path: Path) -> None:
    """Fusing Conv and Relu is an extended optimisation, folding constants a basic one."""
    path = models.convolutional(tmp_path / "model.onnx")
    operators = {
        level: {
            node.op_type for node in optimized_graph(path, SessionSpec(optimization=level)).node
        }
        for level in LEVELS
    }
    assert "Relu" in operators["disabled"]
    assert "Relu" in operators["basic"]
    assert "Relu" not in operators["extended"]
    assert "Relu" not in operators["all"]


def test_a_mask_of_minus_infinities_may_stay_but_none_may_come_in(tmp_path: Path) -> None:
    plain = models.perceptron(tmp_path / "plain.onnx", sizes=(16, 32, 32, 4))
    masked = faults.planted(plain, tmp_path / "masked.onnx", faults.masked)
    assert broken(masked, masked, SessionSpec()) == []
    assert broken(plain, masked, SessionSpec()) == ["weight 'mask' holds NaN or infinity"]
