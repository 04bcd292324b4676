"""Bias correction takes the measured shift of every layer off its bias."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from optimizers.contract.quantization import StaticInt8
from optimizers.quantization.bias_correction import copy_biases, correct_biases, give_biases
from optimizers.step import StepContext
from optimizers.techniques import apply_step
from tests.support import models
from tests.support.quantized import (
    IMAGES,
    Array,
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


def mean_answers_apart(model: Path, other: Path, x: Array) -> float:
    one, two = (answer(each, x).mean(axis=0, dtype=np.float64) for each in (model, other))
    return float(np.abs(one - two).max())


def test_correcting_biases_takes_the_shift_off_the_answers(
    tmp_path: Path, context: StepContext
) -> None:
    model, x = separable(tmp_path / "model.onnx"), pictures(48)
    # Of 8 bits on every processor: with u8s8 some have to do with 7.
    plain = quantised(model, StaticInt8(scheme="u8u8"), context)
    right = quantised(model, StaticInt8(scheme="u8u8", correct_bias=True), context)
    before, after = (mean_answers_apart(model, each.model, x) for each in (plain, right))
    # Answers are rounded to 1/255 of their range after the bias; its mean error is far smaller.
    assert after < 0.35 * before
    assert any(note.startswith("corrected the bias of 5 layers") for note in right.notes)
    unseen = pictures(300, seed=4)
    wanted = answer(model, unseen)
    gained = decibels(wanted, answer(right.model, unseen)) - decibels(
        wanted, answer(plain.model, unseen)
    )
    assert gained > 0, f"{gained} dB"


def planted(source: Path, target: Path, steps: int) -> Path:
    """The same int8 model with every stored bias, not its zero point, moved by some steps."""
    model = onnx.load(str(source))
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.INT32 and tensor.name.endswith("_quantized"):
            moved = numpy_helper.to_array(tensor) + np.int32(steps)
            tensor.CopyFrom(numpy_helper.from_array(moved, tensor.name))
    onnx.save(model, str(target))
    return target


def test_a_shift_put_into_the_biases_is_found_again(tmp_path: Path, context: StepContext) -> None:
    model, x = separable(tmp_path / "model.onnx"), pictures(48)
    right = quantised(model, StaticInt8(correct_bias=True), context)
    wrong = planted(right.model, tmp_path / "wrong.onnx", 3000)
    shifted = mean_answers_apart(model, wrong, x)
    assert shifted > 10 * mean_answers_apart(model, right.model, x)
    names = ["first", "depthwise", "pointwise", "wide", "last"]
    prepared = context.work_directory / "prepared.onnx"
    done = correct_biases(
        prepared, wrong, tmp_path / "again.onnx", names, {"x": x}, lambda share: None
    )
    assert done.after < 0.01 * done.before
    assert mean_answers_apart(model, tmp_path / "again.onnx", x) < 0.1 * shifted
    copy_biases(right.model, wrong, names)
    assert mean_answers_apart(right.model, wrong, x) == 0


def test_rows_of_an_item_are_averaged_not_added_up(tmp_path: Path, context: StepContext) -> None:
    """A Gemm over the 30 rows of a picture would get 30 times its shift."""
    random = np.random.default_rng(2)
    model = models.save(
        tmp_path / "model.onnx",
        [
            helper.make_node("Reshape", ["x", "rows"], ["r"]),
            helper.make_node("Gemm", ["r", "w", "b"], ["s"], name="gemm"),
            helper.make_node("Reshape", ["s", "items"], ["y"]),
        ],
        [("x", TensorProto.FLOAT, IMAGES)],
        [("y", TensorProto.FLOAT, ["batch", 30, 4])],
        {
            "rows": np.array([-1, 10]),
            "items": np.array([-1, 30, 4]),
            "w": random.standard_normal((10, 4)).astype(np.float32),
            "b": np.zeros(4, np.float32),
        },
    )
    right = quantised(model, StaticInt8(correct_bias=True), context)
    wrong = planted(right.model, tmp_path / "wrong.onnx", 300)
    correct_biases(
        context.work_directory / "prepared.onnx",
        wrong,
        tmp_path / "again.onnx",
        ["gemm"],
        {"x": pictures(48)},
        lambda share: None,
    )
    shifted, left = (
        float(np.abs((answer(model, pictures(48)) - answer(each, pictures(48))).mean((0, 1))).max())
        for each in (wrong, tmp_path / "again.onnx")
    )
    assert left < 0.1 * shifted


def test_layers_without_a_bias_get_one_or_are_named(tmp_path: Path, context: StepContext) -> None:
    random = np.random.default_rng(1)
    model = models.save(
        tmp_path / "model.onnx",
        [
            helper.make_node("Conv", ["x", "k"], ["s"], name="conv"),
            helper.make_node("Relu", ["s"], ["h"]),
            helper.make_node("MatMul", ["h", "w"], ["y"], name="matmul"),
        ],
        [("x", TensorProto.FLOAT, IMAGES)],
        [("y", TensorProto.FLOAT, ["batch", 4, 8, 2])],
        {
            "k": random.standard_normal((4, 3, 3, 3)).astype(np.float32),
            "w": random.standard_normal((8, 2)).astype(np.float32),
        },
    )
    with_zeros = tmp_path / "zeros.onnx"
    with_zeros.write_bytes(model.read_bytes())
    give_biases(with_zeros)
    np.testing.assert_array_equal(answer(model, pictures(4)), answer(with_zeros, pictures(4)))
    result = apply_step(model, StaticInt8(correct_bias=True), context)
    [note] = [note for note in result.notes if note.startswith("corrected")]
    assert note.startswith("corrected the bias of 1 layers")
    assert note.endswith("; without a bias of their own: matmul")
