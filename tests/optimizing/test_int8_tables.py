"""Tables of embeddings in 8 bits beside products in int8."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from optimizers.contract.errors import InvalidDocument
from optimizers.contract.quantization import DynamicInt8
from optimizers.graph import count_operators
from optimizers.step import StepContext
from optimizers.techniques import apply_step
from tests.support import models
from tests.support.contexts import step_context
from tests.support.narrow import answers, normal

TOKENS = np.arange(12).reshape(3, 4)
STEP = DynamicInt8(embeddings=True, reduce_range=False)


@pytest.fixture
def context(tmp_path: Path) -> StepContext:
    return step_context(tmp_path)


def encoder(path: Path, table: NDArray[np.float32]) -> Path:
    """rows = table[tokens], y = rows W."""
    return models.save(
        path,
        [
            helper.make_node("Gather", ["table", "tokens"], ["rows"], name="embed"),
            helper.make_node("MatMul", ["rows", "w"], ["y"], name="product"),
        ],
        [("tokens", onnx.TensorProto.INT64, ["batch", "n"])],
        [
            ("rows", onnx.TensorProto.FLOAT, ["batch", "n", table.shape[1]]),
            ("y", onnx.TensorProto.FLOAT, ["batch", "n", 64]),
        ],
        {"table": table, "w": normal(table.shape[1], 64, seed=1)},
    )


@pytest.mark.parametrize(("width", "block"), [(384, 128), (64, 64), (48, 16)])
def test_rows_are_rounded_by_the_formula(
    tmp_path: Path, context: StepContext, width: int, block: int
) -> None:
    table = normal(100, width)
    table[3, :block] = 0
    model = encoder(tmp_path / "model.onnx", table)
    result = apply_step(model, STEP, context)
    wanted = np.empty_like(table)
    for row in range(len(table)):
        for start in range(0, width, block):
            numbers = table[row, start : start + block]
            scale = numbers[np.abs(numbers).argmax()] / -128 or 1.0
            codes = np.clip(np.round(numbers / scale), -128, 127)
            wanted[row, start : start + block] = codes * scale
    assert np.abs(answers(result.model, tokens=TOKENS) - wanted[TOKENS]).max() < 1e-6
    assert result.model.stat().st_size < model.stat().st_size / 2.8
    assert "1 embeddings in 8 bits" in result.notes


def test_a_table_is_narrowed_only_when_asked(tmp_path: Path, context: StepContext) -> None:
    model = encoder(tmp_path / "model.onnx", normal(100, 64))
    for step in (replace(STEP, embeddings=False), replace(STEP, exclude=("embed",))):
        result = apply_step(model, step, context)
        assert result.modified
        assert count_operators(result.model, "Gather") == 1
        assert count_operators(result.model, "GatherBlockQuantized") == 0
    with pytest.raises(InvalidDocument, match="embed, which the step would not touch"):
        apply_step(model, replace(STEP, embeddings=False, exclude=("embed",)), context)


def test_rows_that_cannot_be_cut_into_blocks_are_left_and_named(
    tmp_path: Path, context: StepContext
) -> None:
    result = apply_step(encoder(tmp_path / "model.onnx", normal(100, 40)), STEP, context)
    assert "0 embeddings in 8 bits" in result.notes
    assert any(note.startswith("left embed alone: its rows of 40") for note in result.notes)
