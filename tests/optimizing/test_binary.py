"""Weights of two and of three values: what they are, that they fit 2 bits, what they compute."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from optimizers.contract.errors import InvalidDocument
from optimizers.contract.quantization import Binarize, Ternarize
from optimizers.graph import count_operators
from optimizers.quantization.binarize import binary
from optimizers.quantization.ternarize import ternary
from optimizers.step import StepContext
from optimizers.techniques import apply_step
from tests.support import models
from tests.support.contexts import step_context
from tests.support.narrow import (
    INT8_ACTIVATIONS,
    answers,
    at_level,
    normal,
    product,
    stored,
)

Floats = NDArray[np.float32]
Kind = Binarize | Ternarize

KINDS: list[Kind] = [
    Binarize(),
    Ternarize(),
    Binarize(block_size=64),
    Ternarize(block_size=128),
]
NORMAL_ERROR = {Binarize: np.sqrt(1 - 2 / np.pi), Ternarize: 0.44}
"""What the best such values are off by, as a share of weights that are normally distributed."""


@pytest.fixture
def context(tmp_path: Path) -> StepContext:
    return step_context(tmp_path)


def by_formula(weight: Floats, step: Kind) -> Floats:
    """Block after block, straight from the papers."""
    found = np.empty_like(weight)
    for column in range(weight.shape[1]):
        for start in range(0, len(weight), step.block_size):
            block = weight[start : start + step.block_size, column]
            if isinstance(step, Binarize):
                values = np.abs(block).mean() * np.where(block < 0, -1, 1)
            else:
                kept = np.abs(block) > 0.7 * np.abs(block).mean()
                alpha = np.abs(block[kept]).mean() if kept.any() else 0.0
                values = alpha * np.sign(block) * kept
            found[start : start + step.block_size, column] = values
    return found


@pytest.mark.parametrize("step", KINDS, ids=str)
@pytest.mark.parametrize("rows", [256, 200, 31])
def test_weights_are_what_the_papers_say(
    tmp_path: Path, context: StepContext, step: Kind, rows: int
) -> None:
    """Columns may end within a block, whose missing rows must not count for its mean."""
    weight, x = normal(rows, 40), normal(6, rows, seed=1)
    model = product(tmp_path / "model.onnx", weight)
    result = apply_step(model, step, context)
    [narrow] = stored(result.model)
    wanted = by_formula(weight, step)
    assert (narrow.bits, narrow.zero_points) == (2, None)
    assert np.abs(narrow.widened() - wanted).max() < 1e-6
    damaged = replace(narrow, scales=narrow.scales * np.float32(1.01))
    assert np.abs(damaged.widened() - wanted).max() > 1e-3, "a wrong scale is seen"
    most = np.abs(x @ wanted).max()
    assert np.abs(answers(at_level(result.model, 0), x=x) - x @ wanted).max() < 1e-5 * most
    assert np.abs(answers(result.model, x=x) - x @ wanted).max() < INT8_ACTIVATIONS * most
    assert np.abs(answers(result.model, x=x) - x @ weight).max() > INT8_ACTIVATIONS * most


@pytest.mark.parametrize("step", KINDS[:2], ids=str)
def test_the_file_is_more_than_eight_times_smaller(
    tmp_path: Path, context: StepContext, step: Kind
) -> None:
    model = models.perceptron(tmp_path / "model.onnx", sizes=(256, 256, 256))
    result = apply_step(model, step, context)
    assert count_operators(result.model, "MatMulNBits") == 2
    assert model.stat().st_size > 8 * result.model.stat().st_size
    wide = apply_step(model, replace(step, block_size=256), context)
    assert model.stat().st_size > 12 * wide.model.stat().st_size


@pytest.mark.parametrize("step", KINDS[:2], ids=str)
def test_the_notes_tell_how_far_the_weights_are_off(
    tmp_path: Path, context: StepContext, step: Kind
) -> None:
    model = product(tmp_path / "model.onnx", normal(256, 256))
    first = apply_step(model, replace(step, block_size=256), context).notes[0]
    told = float(first.rsplit("off by ", 1)[1].split("%")[0]) / 100
    assert told == pytest.approx(NORMAL_ERROR[type(step)], abs=0.01)


def test_codes_are_the_values_that_are_stored_exactly() -> None:
    weight = np.array([[-2.0, 1.0], [4.0, 0.0], [-0.1, -5.0]], np.float32)
    two, three = (quantise(torch.from_numpy(weight.T), 32) for quantise in (binary, ternary))
    assert two.codes[:, 0, :3].tolist() == [[1, 3, 1], [3, 3, 1]]
    assert two.scales.numpy() == pytest.approx(np.array([[6.1 / 3], [2.0]]))
    assert three.codes[:, 0, :3].tolist() == [[1, 3, 2], [2, 2, 1]]
    assert three.scales.numpy() == pytest.approx(np.array([[3.0], [5.0]]))


def test_a_model_of_such_weights_is_kept_exactly(tmp_path: Path, context: StepContext) -> None:
    """What was trained with these quantisers loses nothing by being stored so."""
    signs = np.where(normal(64, 32) < 0, -0.5, 0.5).astype(np.float32)
    three = (np.sign(normal(64, 32)) * (np.abs(normal(64, 32)) > 0.5)).astype(np.float32)
    pairs: list[tuple[Kind, Floats]] = [(Binarize(), signs), (Ternarize(), three)]
    for step, weight in pairs:
        result = apply_step(product(tmp_path / "model.onnx", weight), step, context)
        assert np.array_equal(stored(result.model)[0].widened(), weight)
        assert "off by 0.0% of their size" in result.notes[0]


def test_weights_of_zero_stay_finite() -> None:
    for quantise in (binary, ternary):
        narrow = quantise(torch.zeros(3, 40), 32).stored()
        assert np.array_equal(narrow.widened(), np.zeros((40, 3)))


@pytest.mark.parametrize("kind", [Binarize, Ternarize])
def test_layers_are_chosen_by_name(
    tmp_path: Path, context: StepContext, kind: type[Binarize] | type[Ternarize]
) -> None:
    model = models.perceptron(tmp_path / "model.onnx", sizes=(64, 64, 64, 64))
    inner = apply_step(model, kind(include=("matmul1",)), context)
    assert count_operators(inner.model, "MatMulNBits") == 1
    kept = onnx.load(str(inner.model)).graph.initializer
    assert sum(list(tensor.dims) == [64, 64] for tensor in kept) == 2
    outer = apply_step(model, kind(exclude=("matmul1",)), context)
    assert count_operators(outer.model, "MatMulNBits") == 2
    with pytest.raises(InvalidDocument, match=r"ize.include names matmul9"):
        apply_step(model, kind(include=("matmul9",)), context)
    with pytest.raises(InvalidDocument, match="include and exclude both name matmul1"):
        apply_step(model, kind(include=("matmul1",), exclude=("matmul1",)), context)


@pytest.mark.parametrize("step", KINDS[:2], ids=str)
def test_nothing_to_touch_changes_nothing(tmp_path: Path, context: StepContext, step: Kind) -> None:
    model = models.two_inputs(tmp_path / "model.onnx")
    result = apply_step(model, step, context)
    assert (result.model, result.modified) == (model, False)
    assert result.notes == ("the model has no matrix product (MatMul, Gemm)",)


@pytest.mark.parametrize("kind", [Binarize, Ternarize])
@pytest.mark.parametrize("block_size", [0, 16, 48])
def test_blocks_without_a_fast_kernel_are_refused_when_written(
    kind: type[Binarize] | type[Ternarize], block_size: int
) -> None:
    with pytest.raises(InvalidDocument, match="block_size must be one of 32, 64, 128, 256"):
        kind(block_size=block_size)
