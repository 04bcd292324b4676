"""Models in float16 and bfloat16: the file's size, the signature, the answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from optimizers.contract.errors import InvalidDocument
from optimizers.contract.quantization import Bf16, DynamicInt8, Fp16
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.quantization import fp16
from optimizers.step import StepContext
from optimizers.techniques import apply_step
from tests.support import models
from tests.support.contexts import step_context
from tests.support.narrow import answers, normal

HALF_PRECISION = 2.0**-9
"""Share of the largest answer: an ulp of float16 for the weights, and one for the values."""


@pytest.fixture
def context(tmp_path: Path) -> StepContext:
    return step_context(tmp_path)


def on_gpu(context: StepContext) -> StepContext:
    return replace(context, session=replace(context.session, provider="cuda"))


def weights(model: Path) -> list[NDArray[np.generic]]:
    stored = onnx.load(str(model)).graph.initializer
    return [numpy_helper.to_array(tensor) for tensor in stored]


def signature(model: Path) -> list[tuple[str, int]]:
    graph = onnx.load(str(model)).graph
    values = (*graph.input, *graph.output)
    return [(value.name, value.type.tensor_type.elem_type) for value in values]


def test_float16_halves_the_file_and_keeps_the_answers(
    tmp_path: Path, context: StepContext
) -> None:
    model = models.perceptron(tmp_path / "model.onnx", sizes=(64, 256, 256, 4))
    result = apply_step(model, Fp16(), context)
    assert result.model.stat().st_size == pytest.approx(model.stat().st_size / 2, rel=0.02)
    assert {array.dtype for array in weights(result.model)} == {np.dtype(np.float16)}
    assert signature(result.model) == signature(model)
    x = normal(200, 64, seed=1)
    wanted, found = answers(model, x=x), answers(result.model, x=x)
    assert np.abs(found - wanted).max() < HALF_PRECISION * np.abs(wanted).max()
    assert (found.argmax(1) == wanted.argmax(1)).mean() >= 0.99
    onnx.checker.check_model(str(result.model), full_check=True)


def test_a_damaged_weight_would_be_seen(tmp_path: Path, context: StepContext) -> None:
    model = models.perceptron(tmp_path / "model.onnx", sizes=(64, 256, 256, 4))
    result = apply_step(model, Fp16(), context)
    damaged = onnx.load(str(result.model))
    largest = max(damaged.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = numpy_helper.to_array(largest) * np.float16(1.01)
    largest.CopyFrom(numpy_helper.from_array(values, largest.name))
    onnx.save(damaged, str(tmp_path / "damaged.onnx"))
    x = normal(200, 64, seed=1)
    wanted, found = answers(model, x=x), answers(tmp_path / "damaged.onnx", x=x)
    assert np.abs(found - wanted).max() > HALF_PRECISION * np.abs(wanted).max()


def test_on_cpu_the_notes_promise_no_memory_and_no_speed(
    tmp_path: Path, context: StepContext
) -> None:
    model = models.perceptron(tmp_path / "model.onnx")
    result = apply_step(model, Fp16(), context)
    assert "memory and speed stay as they are" in result.notes[1]
    assert len(apply_step(model, Fp16(), on_gpu(context)).notes) == 1


def test_float16_cuts_and_counts_what_it_cannot_hold(tmp_path: Path, context: StepContext) -> None:
    """A mask of the lowest float32 must not become minus infinity, whose softmax is NaN."""
    mask = np.full((4, 4), np.finfo(np.float32).min)
    mask[np.tril_indices(4)] = 0
    model = models.save(
        tmp_path / "model.onnx",
        [
            helper.make_node("Add", ["x", "mask"], ["masked"]),
            helper.make_node("Softmax", ["masked"], ["y"]),
        ],
        [("x", onnx.TensorProto.FLOAT, ["batch", 4, 4])],
        [("y", onnx.TensorProto.FLOAT, ["batch", 4, 4])],
        {"mask": mask.astype(np.float32)},
    )
    result = apply_step(model, Fp16(), on_gpu(context))
    assert result.notes[-1] == "6 numbers beyond 65504 were cut to it"
    assert np.isfinite(weights(result.model)[0]).all()
    x = normal(3, 4, 4)
    assert np.abs(answers(result.model, x=x) - answers(model, x=x)).max() < 2.0**-9


def test_float16_leaves_excluded_nodes_alone(tmp_path: Path, context: StepContext) -> None:
    model = models.perceptron(tmp_path / "model.onnx")
    result = apply_step(model, Fp16(exclude=("matmul1",)), context)
    kinds = sorted(str(array.dtype) for array in weights(result.model) if array.ndim == 2)
    assert kinds == ["float16", "float16", "float32"]
    assert result.notes[-1] == "left in float32 as asked: matmul1"
    x = normal(8, 16)
    assert np.abs(answers(result.model, x=x) - answers(model, x=x)).max() < 0.02
    with pytest.raises(InvalidDocument, match=r"fp16.exclude names nothing_like_it"):
        apply_step(model, Fp16(exclude=("nothing_like_it",)), context)


def test_float16_counts_what_became_float16(tmp_path: Path, context: StepContext) -> None:
    model = models.perceptron(tmp_path / "model.onnx")
    part = apply_step(model, Fp16(exclude=("matmul1",)), on_gpu(context))
    kinds = [array.dtype for array in weights(part.model)]
    assert part.notes[0].startswith(f"{kinds.count(np.dtype(np.float16))} weights in float16, ")
    assert 0 < kinds.count(np.dtype(np.float16)) < len(kinds)
    everything = tuple(node.name for node in onnx.load(str(model)).graph.node)
    for where in (context, on_gpu(context)):
        nothing = apply_step(model, Fp16(exclude=everything), where)
        assert (nothing.model, nothing.modified) == (model, False)
        assert nothing.notes[0] == "no weight became float16"
        assert nothing.notes[1].startswith("left in float32 as asked: matmul0, ")


def test_float16_cuts_only_what_it_converts(tmp_path: Path, context: StepContext) -> None:
    large = normal(64, 64)
    large[0, :3] = 1e6
    model = models.save(
        tmp_path / "model.onnx",
        [
            helper.make_node("MatMul", ["x", "large"], ["h"], name="large"),
            helper.make_node("MatMul", ["h", "small"], ["y"], name="small"),
        ],
        [("x", onnx.TensorProto.FLOAT, ["batch", 64])],
        [("y", onnx.TensorProto.FLOAT, ["batch", 64])],
        {"large": large, "small": normal(64, 64)},
    )
    assert "3 numbers beyond 65504 were cut to it" in apply_step(model, Fp16(), context).notes
    result = apply_step(model, Fp16(exclude=("large",)), context)
    assert result.modified
    assert not any("beyond" in note for note in result.notes)


def test_float16_tells_what_it_cannot_improve(tmp_path: Path, context: StepContext) -> None:
    model = models.convolutional(tmp_path / "model.onnx")
    dynamic = apply_step(model, DynamicInt8(), context).model
    unopened = apply_step(dynamic, Fp16(), context)
    assert not unopened.modified
    assert "in float16 the model does not open" in unopened.notes[0]
    tiny = apply_step(models.linear(tmp_path / "tiny.onnx"), Fp16(), context)
    assert tiny.notes == ("in float16 the file would not become smaller",)


def test_a_runtime_that_crashes_takes_nobody_with_it(
    tmp_path: Path, context: StepContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime 1.32 ends by a signal on the float16 form of some encoders."""
    monkeypatch.setattr(fp16, "_OPEN", "import os\nos.kill(os.getpid(), 11)")
    model = models.perceptron(tmp_path / "model.onnx")
    result = apply_step(model, Fp16(), context)
    assert (result.model, result.modified) == (model, False)
    assert result.notes == ("in float16 the model does not open: the runtime crashed, SIGSEGV",)


@pytest.mark.parametrize("step", [Fp16(), Bf16()], ids=str)
def test_without_weights_nothing_changes(
    tmp_path: Path, context: StepContext, step: Fp16 | Bf16
) -> None:
    model = models.two_inputs(tmp_path / "model.onnx")
    result = apply_step(model, step, on_gpu(context))
    assert (result.model, result.modified) == (model, False)
    assert result.notes == ("the model has no float32 weights",)


def test_bfloat16_is_refused_on_cpu(tmp_path: Path, context: StepContext) -> None:
    model = models.perceptron(tmp_path / "model.onnx")
    result = apply_step(model, Bf16(), context)
    assert (result.model, result.modified) == (model, False)
    assert "no bfloat16 products for provider cpu" in result.notes[0]
    made = apply_step(model, Bf16(), on_gpu(context)).model
    with pytest.raises(Exception, match=r"NOT_IMPLEMENTED|Could not find"):
        Session(made, SessionSpec())


def test_bfloat16_halves_the_file_and_keeps_the_answers(
    tmp_path: Path, context: StepContext
) -> None:
    model = models.perceptron(tmp_path / "model.onnx", sizes=(64, 256, 256, 4))
    result = apply_step(model, Bf16(), on_gpu(context))
    assert result.model.stat().st_size == pytest.approx(model.stat().st_size / 2, rel=0.02)
    assert {array.dtype for array in weights(result.model)} == {np.dtype(ml_dtypes.bfloat16)}
    assert signature(result.model) == signature(model)
    x = normal(200, 64, seed=1)
    wanted = answers(model, x=x)
    [found] = map(np.asarray, ReferenceEvaluator(str(result.model)).run(None, {"x": x}))
    assert found.dtype == np.float32
    assert np.abs(found - wanted).max() < 8 * HALF_PRECISION * np.abs(wanted).max()
    assert (found.argmax(1) == wanted.argmax(1)).mean() >= 0.95


def test_bfloat16_names_the_operator_that_has_no_such_form(
    tmp_path: Path, context: StepContext
) -> None:
    """Conv takes bfloat16 from opset 22 on; the model is of opset 20."""
    model = models.convolutional(tmp_path / "model.onnx")
    result = apply_step(model, Bf16(), on_gpu(context))
    assert not result.modified
    assert "Conv" in result.notes[0]
