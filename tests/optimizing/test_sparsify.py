"""Training towards zero: what is pulled, and that the cut which follows costs less."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from optimizers.contract.errors import InvalidDocument
from optimizers.contract.pruning import PruneWeights, Sparsify
from optimizers.contract.training import Training
from optimizers.step import StepContext
from optimizers.techniques import apply_step
from tests.support.digits import agreement, train_original, training_context

TRAINING = Training(epochs=6, batch_size=32, learning_rate=2e-3)


@pytest.fixture
def taught(tmp_path: Path) -> StepContext:
    context = training_context(tmp_path)
    train_original(context)
    return context


def weight(model: Path, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    tensors = {one.name: one for one in onnx.load(str(model)).graph.initializer}
    return np.asarray(numpy_helper.to_array(tensors[name]), np.float32)


def small_share(values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> float:
    return float((np.abs(values) < 0.05 * np.abs(values).max()).mean())


def test_single_weights_are_pulled_to_zero_and_a_cut_then_costs_less(
    taught: StepContext, tmp_path: Path
) -> None:
    step = Sparsify(penalty="l1", strength=3e-4, training=TRAINING)
    result = apply_step(taught.original, step, taught)
    assert result.modified
    before, after = (small_share(weight(one, "w0")) for one in (taught.original, result.model))
    assert after > before + 0.3
    agreements = []
    for turn, model in enumerate((taught.original, result.model)):
        work = tmp_path / f"cut{turn}"
        work.mkdir()
        context = replace(taught, work_directory=work)
        cut = apply_step(model, PruneWeights(ratio=0.9, exclude=("matmul1",)), context).model
        agreements.append(agreement(cut, taught.original))
    assert agreements[0] < 0.94 < agreements[1]


def test_whole_channels_are_pulled_together(taught: StepContext) -> None:
    step = Sparsify(penalty="group_lasso", strength=1e-3, training=TRAINING)
    result = apply_step(taught.original, step, taught)
    sizes = [
        np.sqrt(784) * np.linalg.norm(weight(one, "w0"), axis=0)
        for one in (taught.original, result.model)
    ]
    assert sizes[1].sum() < 0.8 * sizes[0].sum()
    spread = [float(one.std() / one.mean()) for one in sizes]
    assert spread[1] > spread[0], "some channels fall, not all alike"


def test_without_batch_normalisation_its_scales_cannot_be_pulled(taught: StepContext) -> None:
    result = apply_step(taught.original, Sparsify(penalty="bn_scale"), taught)
    assert (result.modified, result.model) == (False, taught.original)
    assert "has no batch normalisation" in result.notes[0]


@pytest.mark.parametrize("name", ["strength", "temperature"])
def test_parameters_out_of_range_are_told(name: str) -> None:
    with pytest.raises(InvalidDocument, match=f"sparsify.{name} must be above 0, got 0"):
        Sparsify(**{name: 0.0})  # type: ignore[arg-type]
