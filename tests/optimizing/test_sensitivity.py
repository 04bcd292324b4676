"""The most sensitive nodes are found, kept and named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from optimizers.contract.quantization import StaticInt8
from optimizers.quantization.sensitivity import Ranking, most_different, rank, sqnr
from optimizers.step import StepContext
from optimizers.techniques import apply_step
from tests.support import models
from tests.support.quantized import (
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


def test_the_ratio_is_that_of_the_formula_and_the_worst_items_come_first() -> None:
    wanted = np.array([[1.0, 2.0], [3.0, 0.0], [10.0, 0.0]])
    found = wanted + np.array([[0.1, 0.0], [0.0, 0.6], [0.0, 0.3]])
    assert sqnr(wanted, found) == pytest.approx(10 * np.log10(114 / 0.46))
    assert sqnr(wanted, wanted) > 200
    # Noise beside signal: 0.01 / 5, 0.36 / 9, 0.09 / 100.
    assert most_different(wanted, found).tolist() == [1, 0, 2]
    many = np.ones((100, 1))
    noisy = many + np.arange(100)[:, None]
    assert most_different(many, noisy).tolist() == list(range(99, 35, -1))


def test_the_most_sensitive_nodes_are_those_that_an_exhaustive_search_finds(
    tmp_path: Path, context: StepContext
) -> None:
    model, x = separable(tmp_path / "model.onnx"), pictures(48)
    wanted = answer(model, x)
    names = ["first", "depthwise", "pointwise", "wide", "last"]
    alone = {}
    for name in names:
        found = quantised(model, StaticInt8(exclude=(name,), per_channel=False), context)
        alone[name] = decibels(wanted, answer(found.model, x))
    best = max(names, key=lambda name: alone[name])
    assert alone[best] > min(alone.values()) + 1, "any other choice would pass as well"
    result = quantised(model, StaticInt8(keep_float=1, per_channel=False), context)
    [note] = [note for note in result.notes if note.startswith("kept in floating point")]
    assert note.startswith(f"kept in floating point as most sensitive: {best} ({alone[best]:.1f}")
    assert note.endswith("on the 48 items that differ most; tried 5 of 5 nodes")
    assert decibels(wanted, answer(result.model, x)) == pytest.approx(alone[best])
    assert "quantised 4 of 5" in result.notes[0]


def test_nodes_are_ranked_with_the_biases_corrected(tmp_path: Path, context: StepContext) -> None:
    """Uncorrected, nodes would be kept for a shift that correction takes away."""
    model, x = separable(tmp_path / "model.onnx"), pictures(48)
    plain, corrected = (
        decibels(answer(model, x), answer(quantised(model, step, context).model, x))
        for step in (StaticInt8(), StaticInt8(correct_bias=True))
    )
    result = apply_step(model, StaticInt8(keep_float=1, correct_bias=True), context)
    [note] = [note for note in result.notes if note.startswith("kept in floating point")]
    found = float(note.split("all as integers give ")[1].split(" dB")[0])
    assert abs(found - corrected) < 0.1 < abs(corrected - plain)


def test_ranking_ends_when_its_time_is_up(tmp_path: Path, context: StepContext) -> None:
    model = separable(tmp_path / "model.onnx")
    result = apply_step(model, StaticInt8(keep_float=2, rank_seconds=1e-9), context)
    assert any(note.endswith("tried 1 of 5 nodes") for note in result.notes)


def test_nodes_at_the_ends_are_tried_first_and_none_is_kept_in_vain(tmp_path: Path) -> None:
    model = separable(tmp_path / "model.onnx")
    tried: list[str] = []

    def unchanged(kept: Sequence[str]) -> Path:
        tried.extend(kept)
        return model

    items = {"x": pictures(4)}
    ranking = rank(model, unchanged, ["a", "b", "c", "d"], items, 60, lambda share, text: None)
    assert tried == ["a", "d", "b", "c"]
    assert ranking.best(3) == [], "none gives more than what all give as integers"
    better = Ranking(everything=20, alone={"c": 25, "a": 21, "b": 20}, candidates=3, items=4)
    assert better.best(1) == ["c"]
    assert better.best(3) == ["c", "a"]


def test_a_fused_node_is_named_as_the_operator_knows_it(
    tmp_path: Path, context: StepContext
) -> None:
    """A MatMul and an Add become one Gemm; what is noted can be written into `exclude`."""
    model = models.perceptron(tmp_path / "model.onnx", sizes=(16, 64, 64, 4))
    values = np.random.default_rng(0).standard_normal((32, 16)).astype(np.float32)
    np.savez(tmp_path / "calibration.npz", x=values)
    result = apply_step(model, StaticInt8(keep_float=1), context)
    [note] = [note for note in result.notes if note.startswith("kept in floating point")]
    name = note.split(": ")[1].split(" ")[0]
    assert name in ("matmul0", "matmul1", "matmul2")
    assert apply_step(model, StaticInt8(exclude=(name,)), context).modified
