"""What every step promises, and what each promises besides."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from optimizers.contract.errors import InvalidData, InvalidDocument
from optimizers.contract.goal import FigureName, Goal
from optimizers.contract.host import this_host
from optimizers.contract.profile import Task
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.contract.steps import (
    STEP_TYPES,
    STEPS_BY_NAME,
    DynamicInt8,
    StaticInt8,
    Step,
    TuneSession,
)
from optimizers.graph import count_operators
from optimizers.pipeline import apply_step
from optimizers.step import StepContext
from tests.support import models
from tests.support.data import write_data

MODELS: dict[str, Callable[[Path], Path]] = {
    "perceptron": lambda path: models.perceptron(path, sizes=(16, 128, 128, 4)),
    "convolutional": models.convolutional,
}
STEPS: list[Step] = [
    DynamicInt8(),
    DynamicInt8(per_channel=False, reduce_range=True),
    StaticInt8(),
    StaticInt8(scheme="u8u8", per_channel=False),
    StaticInt8(scheme="s8s8", skip_first=True),
    StaticInt8(calibration="percentile", percentile=99.9),
    StaticInt8(calibration="entropy", samples=20),
    TuneSession(threads=(1, 2), arena=(False,), optimization=("all",)),
]


@pytest.fixture
def context(tmp_path: Path) -> StepContext:
    work = tmp_path / "work"
    work.mkdir()
    return StepContext(
        work_directory=work,
        host=this_host(2),
        session=SessionSpec(lanes=2, max_batch=8),
        goal=Goal(optimize=(FigureName.THROUGHPUT,)),
        task=Task.CLASSIFICATION,
        data={},
        seed=0,
        report=lambda share, text: None,
    )


def prepared(tmp_path: Path, name: str, context: StepContext) -> tuple[Path, StepContext]:
    model = MODELS[name](tmp_path / "model.onnx")
    write_data(tmp_path / "data", model)
    return model, replace(context, data={"calibration": tmp_path / "data/calibration.npz"})


def test_every_step_is_tried_here() -> None:
    assert {type(step) for step in STEPS} == set(STEP_TYPES)
    assert set(STEPS_BY_NAME) == {"dynamic_int8", "static_int8", "tune_session"}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("step", STEPS, ids=str)
def test_every_step_keeps_the_signature_and_says_what_it_did(
    tmp_path: Path, context: StepContext, step: Step, name: str
) -> None:
    model, context = prepared(tmp_path, name, context)
    before = hashlib.sha256(model.read_bytes()).hexdigest()
    shares: list[float] = []
    context = replace(context, report=lambda share, text: shares.append(share))
    result = apply_step(model, step, context)
    assert hashlib.sha256(model.read_bytes()).hexdigest() == before, "the input was written to"
    assert result.notes
    assert shares == sorted(shares)
    assert all(0 <= share <= 1 for share in shares)
    changed = result.model != model or result.session != context.session
    assert changed == result.modified
    one, other = Session(model, context.session), Session(result.model, result.session)
    assert one.signature.matches(other.signature)
    feeds = {"x": np.random.default_rng(5).standard_normal((3, *one.signature.inputs[0].shape[1:]))}
    feeds = {"x": feeds["x"].astype(np.float32)}
    wanted, found = one.run(feeds)[0], other.run(feeds)[0]
    assert np.abs(wanted - found).max() < 0.35 * np.abs(wanted).max()
    one.close()
    other.close()


@pytest.mark.parametrize("step", [DynamicInt8(), StaticInt8()], ids=str)
def test_quantising_twice_gives_the_same_bytes(
    tmp_path: Path, context: StepContext, step: Step
) -> None:
    model, context = prepared(tmp_path, "convolutional", context)
    made = []
    for turn in ("one", "other"):
        work = tmp_path / turn
        work.mkdir()
        result = apply_step(model, step, replace(context, work_directory=work))
        made.append(result.model.read_bytes())
    assert made[0] == made[1]


def test_dynamic_int8_quantises_products_and_leaves_what_is_excluded(
    tmp_path: Path, context: StepContext
) -> None:
    model, context = prepared(tmp_path, "perceptron", context)
    everything = apply_step(model, DynamicInt8(), context)
    assert count_operators(everything.model, "MatMulInteger") == 3
    some = apply_step(model, DynamicInt8(exclude=("matmul1",)), context)
    assert count_operators(some.model, "MatMulInteger") == 2
    assert "left alone as asked: matmul1" in some.notes
    with pytest.raises(InvalidDocument, match="exclude names matmul9"):
        apply_step(model, DynamicInt8(exclude=("matmul9",)), context)


def test_dynamic_int8_says_when_there_is_nothing_to_do(
    tmp_path: Path, context: StepContext
) -> None:
    model = models.two_inputs(tmp_path / "model.onnx")
    result = apply_step(model, DynamicInt8(), context)
    assert not result.modified
    assert "no matrix product" in result.notes[0]


def test_static_int8_asks_for_calibration_data(tmp_path: Path, context: StepContext) -> None:
    model = models.convolutional(tmp_path / "model.onnx")
    with pytest.raises(InvalidData, match=r"name an \.npz as data.calibration in hone.yaml"):
        apply_step(model, StaticInt8(), context)


def test_static_int8_leaves_excluded_nodes_in_floating_point(
    tmp_path: Path, context: StepContext
) -> None:
    model, context = prepared(tmp_path, "convolutional", context)
    result = apply_step(model, StaticInt8(exclude=("gemm1",)), context)
    graph = onnx.load(str(result.model)).graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    gemm = next(node for node in graph.node if node.op_type in ("Gemm", "MatMul"))
    assert makers.get(gemm.input[1]) != "DequantizeLinear"


def test_weights_take_seven_bits_where_the_processor_would_saturate(
    tmp_path: Path, context: StepContext
) -> None:
    model, context = prepared(tmp_path, "perceptron", context)

    def largest(features: tuple[str, ...]) -> int:
        host = replace(context.host, architecture="x86_64", cpu_features=features)
        result = apply_step(model, DynamicInt8(), replace(context, host=host))
        weights = [
            onnx.numpy_helper.to_array(tensor)
            for tensor in onnx.load(str(result.model)).graph.initializer
            if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 2
        ]
        return max(int(np.abs(weight.astype(int)).max()) for weight in weights)

    assert largest(("avx2", "avx512_vnni")) > 100
    assert largest(("avx2",)) <= 64


def test_tune_session_keeps_within_the_processors(tmp_path: Path, context: StepContext) -> None:
    model, context = prepared(tmp_path, "perceptron", context)
    result = apply_step(model, TuneSession(threads=(1, 2)), context)
    assert result.model == model
    assert result.session.intra_op_threads * result.session.lanes <= 2
