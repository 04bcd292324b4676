"""Weights that stand among a model's inputs: constants of old, later what callers may replace."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from optimizers.contract.architecture import LowRank
from optimizers.contract.quantization import Binarize, WeightsNbits
from optimizers.graph import count_operators, load_with_constants
from optimizers.step import StepContext
from optimizers.techniques import apply_step
from tests.support import models
from tests.support.contexts import step_context
from tests.support.narrow import answers, normal

NARROWING = (WeightsNbits(), Binarize())
STEPS = (*NARROWING, LowRank(by="rank", keep=0.3))
SIZES = (64, 256, 256, 4)


@pytest.fixture
def context(tmp_path: Path) -> StepContext:
    return step_context(tmp_path)


def listed(path: Path, ir_version: int) -> Path:
    """A perceptron whose weights are all among its inputs."""
    model = onnx.load(str(models.perceptron(path, sizes=SIZES)))
    for tensor in model.graph.initializer:
        model.graph.input.append(
            onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    model.ir_version = ir_version
    onnx.save(model, str(path))
    return path


def inputs(model: Path) -> set[str]:
    return {value.name for value in onnx.load(str(model)).graph.input}


@pytest.mark.parametrize("step", STEPS, ids=lambda step: type(step).__name__)
def test_before_version_4_they_are_constants(
    tmp_path: Path, context: StepContext, step: WeightsNbits | Binarize | LowRank
) -> None:
    plain = models.perceptron(tmp_path / "plain.onnx", sizes=SIZES)
    wanted = apply_step(plain, step, context)
    assert wanted.modified
    x = normal(5, SIZES[0])
    expected = answers(wanted.model, x=x)
    found = apply_step(listed(tmp_path / "old.onnx", 3), step, context)
    assert found.modified
    assert inputs(found.model) == {"x"}
    np.testing.assert_allclose(answers(found.model, x=x), expected, rtol=1e-4, atol=1e-5)


def test_before_version_4_constants_may_be_added(tmp_path: Path) -> None:
    loaded = load_with_constants(listed(tmp_path / "old.onnx", 3))
    assert loaded.ir_version == 4
    assert [value.name for value in loaded.graph.input] == ["x"]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: type(step).__name__)
def test_from_version_4_callers_may_still_replace_them(
    tmp_path: Path, context: StepContext, step: WeightsNbits | Binarize | LowRank
) -> None:
    model = listed(tmp_path / "model.onnx", 8)
    result = apply_step(model, step, context)
    assert not result.modified
    assert count_operators(result.model, "MatMulNBits") == 0


@pytest.mark.parametrize("step", NARROWING, ids=lambda step: type(step).__name__)
def test_a_weight_that_may_be_replaced_stays_beside_one_that_may_not(
    tmp_path: Path, context: StepContext, step: WeightsNbits | Binarize
) -> None:
    model = onnx.load(str(listed(tmp_path / "model.onnx", 8)))
    free = next(tensor for tensor in model.graph.initializer if tensor.dims[:1] == [SIZES[0]])
    for value in list(model.graph.input):
        if value.name not in ("x", free.name):
            model.graph.input.remove(value)
    onnx.save(model, str(tmp_path / "model.onnx"))
    result = apply_step(tmp_path / "model.onnx", step, context)
    assert result.modified
    assert inputs(result.model) == {"x", free.name}
    x, zeros = normal(5, SIZES[0]), np.zeros(free.dims, np.float32)
    session = onnxruntime.InferenceSession(str(result.model), providers=["CPUExecutionProvider"])
    [kept], [replaced] = session.run(None, {"x": x}), session.run(None, {"x": x, free.name: zeros})
    assert np.ptp(kept, axis=0).min() > 0.1
    assert np.ptp(replaced, axis=0).max() == 0, "without the first weight all items are alike"
