"""What onnxruntime makes of an int8 model when it opens it."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from optimizers.contract.errors import InvalidDocument
from optimizers.contract.quantization import DynamicInt8, StaticInt8
from optimizers.contract.runtime import SessionSpec
from optimizers.quantization import integer_model
from optimizers.quantization.leftovers import leftovers
from optimizers.step import StepContext
from optimizers.techniques import apply_step
from tests.support import models
from tests.support.quantized import (
    IMAGES,
    answer,
    calibrated,
    decibels,
    pictures,
    quantised,
    separable,
)


@pytest.fixture
def context(tmp_path: Path) -> StepContext:
    return calibrated(tmp_path)


def test_a_node_left_in_floating_point_stays_there_when_it_is_opened(
    tmp_path: Path, context: StepContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime would quantise its weight with one scale: the plain library shows it."""
    model, x = separable(tmp_path / "model.onnx"), pictures(20)
    ours = quantised(model, StaticInt8(exclude=("depthwise",)), context)
    assert leftovers(ours.model, SessionSpec()).floating == 1
    assert "4 products compute in integers, 1 in floating point" in ours.notes[-1]
    monkeypatch.setattr(integer_model, "keep_floating", lambda path: None)
    plain = apply_step(model, StaticInt8(exclude=("depthwise",)), context)
    assert leftovers(plain.model, SessionSpec()).floating == 0, "onnxruntime changed: see its notes"
    as_written = SessionSpec(optimization="disabled")
    np.testing.assert_array_equal(
        answer(ours.model, x, as_written), answer(plain.model, x, as_written)
    )
    wanted = answer(ours.model, x, as_written)
    apart = [np.abs(wanted - answer(each.model, x)).max() for each in (ours, plain)]
    assert apart[0] < apart[1]


def test_a_node_that_never_was_to_be_quantised_stays_as_it_is(
    tmp_path: Path, context: StepContext
) -> None:
    """The same holds of a ConvTranspose between two convolutions."""
    random = np.random.default_rng(1)
    model = models.save(
        tmp_path / "model.onnx",
        [
            helper.make_node("Conv", ["x", "k"], ["s"]),
            helper.make_node("ConvTranspose", ["s", "t"], ["u"]),
            helper.make_node("Conv", ["u", "l"], ["y"]),
        ],
        [("x", TensorProto.FLOAT, IMAGES)],
        [("y", TensorProto.FLOAT, ["batch", 2, 8, 8])],
        {
            "k": random.standard_normal((4, 3, 3, 3)).astype(np.float32),
            "t": random.standard_normal((4, 5, 3, 3)).astype(np.float32),
            "l": random.standard_normal((2, 5, 3, 3)).astype(np.float32),
        },
    )
    result = apply_step(model, StaticInt8(), context)
    kept = [
        node.op_type
        for node in onnx.load(str(result.model)).graph.node
        if node.op_type == "DequantizeLinear" and "_of_" in node.name
    ]
    assert len(kept) == 1
    wanted = answer(model, pictures(8))
    assert decibels(wanted, answer(result.model, pictures(8))) > 25


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="a trap of x86")
def test_s8s8_is_noted_for_what_it_is_on_x86(tmp_path: Path, context: StepContext) -> None:
    model = separable(tmp_path / "model.onnx")
    suits, slow = (
        apply_step(model, StaticInt8(scheme=scheme), context) for scheme in ("u8s8", "s8s8")
    )
    assert suits.notes[-1] == (
        "after fusion 5 products compute in integers, 0 in floating point, 2 conversions are left"
    )
    assert slow.notes[-1] == "S8S8 is slower than floating point on this processor; U8S8 suits it"
    left = int(slow.notes[-2].split(", ")[-1].split(" ")[0])
    assert left > 2, "an S8S8 model keeps its Relus and the conversions around them"


def test_dynamic_int8_says_what_is_left_after_fusion(tmp_path: Path, context: StepContext) -> None:
    model = models.perceptron(tmp_path / "model.onnx", sizes=(16, 128, 128, 4))
    result = apply_step(model, DynamicInt8(exclude=("matmul1",)), context)
    assert result.notes[-1] == (
        "after fusion 2 products compute in integers, 1 in floating point, 0 conversions are left"
    )


def test_nothing_to_quantise_changes_nothing(tmp_path: Path, context: StepContext) -> None:
    model = separable(tmp_path / "model.onnx")
    names = ("first", "depthwise", "pointwise", "wide", "last")
    step = StaticInt8(exclude=names, equalize=True, correct_bias=True, keep_float=2)
    result = apply_step(model, step, context)
    assert (result.modified, result.model) == (False, model)
    assert result.notes[0].startswith("0 of 5 convolutions and products have a constant weight")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"keep_float": -1}, r"static_int8.keep_float must be at least 0, got -1"),
        ({"rank_seconds": 0}, r"static_int8.rank_seconds must be above 0, got 0"),
        ({"rank_seconds": float("nan")}, r"rank_seconds must be above 0, got nan"),
    ],
)
def test_parameters_out_of_range_are_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidDocument, match=message):
        StaticInt8(**parameters)
