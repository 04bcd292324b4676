"""Training through the rounding: what is rounded, what comes back, and what it wins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from optimizers.contract.errors import InvalidData, InvalidDocument
from optimizers.contract.quantization import QuantizeAware, StaticInt8
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.contract.training import Training
from optimizers.graph import integer_weight_names
from optimizers.quantization.rounding import with_float_weights
from optimizers.step import StepContext
from optimizers.techniques import apply_step
from tests.support.digits import agreement, answers, train_original, training_context

COARSE = StaticInt8(per_channel=False, reduce_range=True)
"""Of 7 bits on every processor, or what is lost would depend on who tests."""


@pytest.fixture
def taught(tmp_path: Path) -> StepContext:
    context = training_context(tmp_path)
    train_original(context)
    return context


def with_an_outlier(model: Path, target: Path, factor: float = 110.0) -> Path:
    """The same function, but one hidden unit has large weights and its readers have small ones."""
    proto = onnx.load(str(model))
    for tensor in proto.graph.initializer:
        array = numpy_helper.to_array(tensor).copy()
        if tensor.name == "w0":
            array[:, 0] *= factor
        elif tensor.name == "b0":
            array[0] *= factor
        elif tensor.name == "w1":
            array[0] /= factor
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(proto, str(target))
    return target


def test_training_wins_back_what_rounding_lost(taught: StepContext, tmp_path: Path) -> None:
    model = with_an_outlier(taught.original, tmp_path / "outlier.onnx")
    assert np.abs(answers(model) - answers(taught.original)).max() < 1e-3
    work = tmp_path / "static"
    work.mkdir()
    lost = apply_step(model, COARSE, _in(taught, work)).model
    step = QuantizeAware(
        int8=COARSE, training=Training(epochs=6, batch_size=32, learning_rate=2e-3)
    )
    result = apply_step(model, step, taught)
    assert result.modified
    assert len(integer_weight_names(result.model, ("MatMul", "Gemm"))) == 2
    before, after = (agreement(one, taught.original) for one in (lost, result.model))
    assert before < 0.9
    assert after > before + 0.05


def test_weights_survive_the_way_to_floats_and_back(taught: StepContext, tmp_path: Path) -> None:
    for scheme in ("u8s8", "u8u8"):
        work = tmp_path / scheme
        work.mkdir()
        step = StaticInt8(scheme=scheme)
        integers = onnx.load(str(apply_step(taught.original, step, _in(taught, work)).model))
        floating, weights = with_float_weights(integers)
        assert len(weights) == 2
        stored = {one.name: numpy_helper.to_array(one) for one in integers.graph.initializer}
        for weight in weights:
            again = weight.to_integers(weight.to_float(stored[weight.name]))
            assert np.array_equal(again, stored[weight.name])
            shifted = weight.to_integers(weight.to_float(stored[weight.name]) + weight.scale)
            assert not np.array_equal(shifted, stored[weight.name]), "one step is seen"
        onnx.save(floating, str(work / "floating.onnx"))
        x = np.random.default_rng(0).random((8, 784), np.float32)
        one, other = (
            Session(path, SessionSpec(optimization="disabled")).run({"x": x})[0]
            for path in (work / "floating.onnx", work / "static_int8.onnx")
        )
        assert np.abs(one - other).max() < 1e-4


def test_what_is_not_quantised_is_kept_as_it_was_trained(
    taught: StepContext, tmp_path: Path
) -> None:
    model = with_an_outlier(taught.original, tmp_path / "outlier.onnx")
    training = Training(epochs=2, batch_size=32, learning_rate=2e-3)
    result = apply_step(model, QuantizeAware(int8=COARSE, training=training), taught)
    trained = onnx.load(str(taught.work_directory / "training/quantize_aware.onnx"))
    kept = {one.name: one for one in onnx.load(str(result.model)).graph.initializer}
    floats = [one for one in trained.graph.initializer if not one.name.endswith("floating_point")]
    assert floats
    assert all(kept[one.name].raw_data == one.raw_data for one in floats)
    assert not [
        node.name
        for node in onnx.load(str(result.model)).graph.node
        if node.op_type == "QuantizeLinear" and node.name.endswith("_rounded")
    ]


def test_seven_bits_stay_seven_bits(taught: StepContext) -> None:
    step = QuantizeAware(
        int8=StaticInt8(reduce_range=True),
        training=Training(epochs=1, batch_size=32, learning_rate=1e-2),
    )
    result = apply_step(taught.original, step, taught)
    stored = [
        numpy_helper.to_array(one)
        for one in onnx.load(str(result.model)).graph.initializer
        if one.data_type == onnx.TensorProto.INT8 and len(one.dims) == 2
    ]
    assert stored
    assert max(int(np.abs(one.astype(int)).max()) for one in stored) <= 64


def test_it_asks_for_what_it_needs(taught: StepContext) -> None:
    with pytest.raises(InvalidDocument, match=r"quantize_aware.temperature must be above 0"):
        QuantizeAware(temperature=-1.0)
    only = {"calibration": taught.data["calibration"]}
    with pytest.raises(InvalidData, match=r"name a file as data\.train in hone\.yaml"):
        apply_step(taught.original, QuantizeAware(), _in(taught, taught.work_directory, only))


def _in(context: StepContext, directory: Path, data: dict[str, Path] | None = None) -> StepContext:
    return replace(context, work_directory=directory, data=data or context.data)
