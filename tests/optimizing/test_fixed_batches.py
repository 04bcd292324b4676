"""Steps that look at calibration data, on models that take a fixed number of items at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from optimizers.calibration import fitting_batches, fixed_batch, whole_batches
from optimizers.contract.architecture import DropHeads, DropLayers
from optimizers.contract.errors import InvalidData
from optimizers.contract.pruning import PruneChannels
from optimizers.contract.quantization import StaticInt8, WeightsNbits
from optimizers.contract.signature import Signature, TensorSpec
from optimizers.contract.steps import Step
from optimizers.quantization.channel_means import channel_means
from optimizers.quantization.moments import Moments
from optimizers.quantization.sensitivity import answers
from optimizers.step import StepContext
from optimizers.techniques import apply_step
from tests.support import models, networks
from tests.support.contexts import step_context
from tests.support.narrow import normal
from tests.support.quantized import calibrated, pictures, separable

ITEMS = 10
"""No multiple of 4."""

STATIC = (
    StaticInt8(),
    StaticInt8(calibration="entropy"),
    StaticInt8(correct_bias=True, keep_float=1),
    PruneChannels(),
)


def fixed(model: Path, batch: int) -> Path:
    """A copy that takes so many items at a time."""
    loaded = onnx.load(str(model))
    for value in (*loaded.graph.input, *loaded.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    onnx.save(loaded, str(model.with_name(f"fixed_{batch}.onnx")))
    return model.with_name(f"fixed_{batch}.onnx")


def with_data(context: StepContext, directory: Path, **arrays: np.ndarray) -> StepContext:
    np.savez(directory / "calibration.npz", allow_pickle=True, **arrays)
    return replace(context, data={"calibration": directory / "calibration.npz"})


@pytest.mark.parametrize(("shape", "sizes"), [(-1, [3, 3, 3, 1]), (1, [1] * 10), (4, [4, 4])])
def test_batches_fit_the_model(shape: int, sizes: list[int]) -> None:
    spec = TensorSpec(name="x", datatype="FP32", shape=(shape, 2))
    signature, items = Signature(inputs=(spec,), outputs=()), {"x": normal(ITEMS, 2)}
    assert fixed_batch(signature) == (None if shape < 0 else shape)
    parts = [part["x"] for part in fitting_batches(items, signature, 3)]
    assert [len(part) for part in parts] == sizes
    np.testing.assert_array_equal(np.concatenate(parts), items["x"][: sum(sizes)])


def test_data_that_does_not_fill_a_batch_is_refused() -> None:
    spec = TensorSpec(name="x", datatype="FP32", shape=(4, 2))
    with pytest.raises(InvalidData, match=r"takes batches of 4; expected at least .* got 3$"):
        whole_batches({"x": normal(3, 2)}, Signature(inputs=(spec,), outputs=()))


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("step", STATIC, ids=str)
def test_steps_for_pictures(tmp_path: Path, step: Step, batch: int) -> None:
    model = separable(tmp_path / "model.onnx")
    context = with_data(calibrated(tmp_path), tmp_path, x=pictures(ITEMS))
    assert apply_step(fixed(model, batch), step, context).modified


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("step", [DropHeads(), DropLayers()], ids=str)
def test_steps_for_transformers(tmp_path: Path, step: Step, batch: int) -> None:
    model = networks.transformer(tmp_path / "model.onnx")
    [value] = onnx.load(str(model)).graph.input
    lengths = [one.dim_value or 5 for one in value.type.tensor_type.shape.dim]
    context = with_data(
        step_context(tmp_path), tmp_path, **{value.name: normal(ITEMS, *lengths[1:])}
    )
    free, found = (apply_step(each, step, context) for each in (model, fixed(model, batch)))
    assert (found.modified, len(found.notes)) == (free.modified, len(free.notes))
    assert found.modified


@pytest.mark.parametrize("batch", [1, 4])
def test_gptq(tmp_path: Path, batch: int) -> None:
    model = fixed(models.perceptron(tmp_path / "model.onnx"), batch)
    context = with_data(step_context(tmp_path), tmp_path, x=normal(ITEMS, 16))
    assert apply_step(model, WeightsNbits(algorithm="gptq"), context).modified


@pytest.mark.parametrize(("batch", "used"), [(1, ITEMS), (4, 8)])
def test_what_is_measured_is_that_of_full_batches(tmp_path: Path, batch: int, used: int) -> None:
    free = models.perceptron(tmp_path / "model.onnx")
    model, x = fixed(free, batch), normal(ITEMS, 16)
    np.savez(tmp_path / "data.npz", x=x)
    np.savez(tmp_path / "used.npz", x=x[:used])
    for value in ("x", "h0"):
        np.testing.assert_allclose(
            Moments(model, tmp_path / "data.npz", ITEMS, seed=0).of(value),
            Moments(free, tmp_path / "used.npz", ITEMS, seed=0).of(value),
            rtol=1e-5,
        )
    np.testing.assert_allclose(
        answers(model, {"x": x}), answers(free, {"x": x[:used]}), rtol=1e-4, atol=1e-5
    )
    [found], [wanted] = (
        channel_means(onnx.load(str(each)), ["add0"], {"x": some}).values()
        for each, some in ((model, x), (free, x[:used]))
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
