"""What every step promises, and what each promises besides."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from optimizers.contract.architecture import DropHeads, DropLayers, Grow, LowRank, Merge, Simplify
from optimizers.contract.distillation import Distill, Finetune
from optimizers.contract.errors import InvalidData, InvalidDocument
from optimizers.contract.goal import FigureName, Goal
from optimizers.contract.host import this_host
from optimizers.contract.profile import Task
from optimizers.contract.pruning import PruneChannels, PruneWeights, Sparsify
from optimizers.contract.quantization import (
    Bf16,
    Binarize,
    DynamicInt8,
    Fp16,
    QuantizeAware,
    StaticInt8,
    Ternarize,
    WeightsNbits,
)
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.contract.steps import STEP_TYPES, STEPS_BY_NAME, Step
from optimizers.contract.training import Training
from optimizers.contract.tuning import SetSession, TuneSession
from optimizers.evaluation.quiet import Usage
from optimizers.graph import count_operators
from optimizers.step import StepContext
from optimizers.techniques import apply_step
from optimizers.tuning import tune_session
from tests.support import models
from tests.support.data import write_data

GENTLE = Training(epochs=1, learning_rate=1e-4)
MODELS: dict[str, Callable[[Path], Path]] = {
    "perceptron": lambda path: models.perceptron(path, sizes=(16, 128, 128, 4)),
    "convolutional": models.convolutional,
}
STEPS: list[Step] = [
    Finetune(training=GENTLE),
    Distill(training=GENTLE),
    PruneWeights(ratio=0.05),
    PruneChannels(ratio=0.1),
    Sparsify(training=GENTLE),
    Simplify(),
    Merge(),
    LowRank(keep=0.97),
    DropLayers(),
    DropHeads(),
    Grow(wider=1.5, deeper=1),
    PruneWeights(ratio=0.05, scope="global", norm="l1"),
    PruneWeights(pattern="7:8"),
    PruneChannels(ratio=0.1, importance="l1"),
    PruneChannels(ratio=0.05, importance="activation", round_to=0),
    PruneChannels(ratio=0.05, importance="taylor", round_to=0),
    DynamicInt8(),
    DynamicInt8(per_channel=False, reduce_range=True),
    StaticInt8(),
    StaticInt8(scheme="u8u8", per_channel=False),
    StaticInt8(scheme="s8s8", skip_first=True),
    StaticInt8(calibration="percentile", percentile=99.9),
    StaticInt8(calibration="entropy", samples=20),
    QuantizeAware(training=GENTLE),
    StaticInt8(equalize=True, correct_bias=True, keep_float=1),
    WeightsNbits(),
    WeightsNbits(bits=8, block_size=64, symmetric=False),
    WeightsNbits(algorithm="hqq", block_size=16),
    WeightsNbits(algorithm="gptq"),
    Binarize(),
    Ternarize(block_size=64),
    WeightsNbits(training=GENTLE),
    Binarize(training=GENTLE),
    Ternarize(block_size=64, training=GENTLE),
    Fp16(),
    Bf16(),
    SetSession(threads=2, arena=True),
    SetSession(threads=1, lanes=1, optimization="extended"),
    TuneSession(threads=(1, 2), arena=(False,), optimization=("all",)),
]


@pytest.fixture
def context(tmp_path: Path) -> StepContext:
    work = tmp_path / "work"
    work.mkdir()
    return StepContext(
        work_directory=work,
        original=tmp_path / "model.onnx",
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
    data = {name: tmp_path / f"data/{name}.npz" for name in ("calibration", "train")}
    return model, replace(context, data=data)


def test_every_step_is_tried_here() -> None:
    assert {type(step) for step in STEPS} == set(STEP_TYPES)
    documented = Path("docs/steps.md").read_text(encoding="utf-8")
    assert [name for name in STEPS_BY_NAME if f"### `{name}`" not in documented] == []


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
    # Weights that were not trained for it do not survive two or three values each.
    allowed = 1.0 if isinstance(step, Binarize | Ternarize) else 0.35
    assert np.abs(wanted - found).max() < allowed * np.abs(wanted).max()
    one.close()
    other.close()


@pytest.mark.parametrize(
    "step",
    [
        DynamicInt8(),
        StaticInt8(),
        StaticInt8(equalize=True, correct_bias=True, keep_float=1),
        PruneWeights(),
        PruneChannels(round_to=0),
    ],
    ids=str,
)
def test_building_twice_gives_the_same_bytes(
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


def test_a_session_is_set_within_the_processors_and_only_where_it_changes(
    tmp_path: Path, context: StepContext
) -> None:
    model = models.linear(tmp_path / "model.onnx")
    wide = apply_step(model, SetSession(threads=64, lanes=9, arena=True), context)
    assert (wide.session.intra_op_threads, wide.session.lanes, wide.session.arena) == (2, 1, True)
    assert "no more threads and lanes than the 2 processors have room for" in wide.notes
    one = apply_step(model, SetSession(lanes=1), context)
    assert (one.session.intra_op_threads, one.session.lanes) == (1, 1)
    assert one.session.max_batch == context.session.max_batch
    same = apply_step(model, SetSession(), context)
    assert (same.modified, same.session) == (False, context.session)
    assert same.notes[0].startswith("it is opened so already: 2 lanes x 1 threads, arena off")


def test_tune_session_keeps_within_the_processors(tmp_path: Path, context: StepContext) -> None:
    model, context = prepared(tmp_path, "perceptron", context)
    result = apply_step(model, TuneSession(threads=(1, 2)), context)
    assert result.model == model
    assert result.session.intra_op_threads * result.session.lanes <= 2


def test_tune_session_weighs_the_largest_batch(tmp_path: Path, context: StepContext) -> None:
    """What one row takes says nothing of how much a full batch does."""
    model, context = prepared(tmp_path, "convolutional", context)
    step = TuneSession(threads=(2,), arena=(False,), optimization=("all",))

    def held_bytes(rows: int) -> float:
        session = replace(context.session, max_batch=rows)
        goal = Goal(optimize=(FigureName.MEMORY,))
        [note] = apply_step(model, step, replace(context, session=session, goal=goal)).notes
        found = re.search(r"(?:against|present one \() ?(\S+) MiB", note)
        assert found, note
        return float(found[1])

    assert held_bytes(4096) > 2 * held_bytes(1)


def test_static_int8_counts_what_it_really_quantised(tmp_path: Path, context: StepContext) -> None:
    model, context = prepared(tmp_path, "convolutional", context)
    some = apply_step(model, StaticInt8(exclude=("gemm1",)), context)
    assert some.notes[0].startswith("quantised 1 of 2 convolutions and products")
    nothing = apply_step(model, StaticInt8(exclude=("conv0", "gemm1")), context)
    assert (nothing.modified, nothing.model) == (False, model)
    assert nothing.notes == (
        "0 of 2 convolutions and products have a constant weight that was quantised",
    )


def test_static_int8_tells_nodes_without_names_apart(tmp_path: Path, context: StepContext) -> None:
    """Leaving the first one alone must not leave all of them alone."""
    model, context = prepared(tmp_path, "convolutional", context)
    nameless = onnx.load(str(model))
    for node in nameless.graph.node:
        node.name = ""
    onnx.save(nameless, str(model))
    result = apply_step(model, StaticInt8(skip_first=True), context)
    assert result.notes[0].startswith("quantised 1 of 2 convolutions and products")
    assert result.notes[1] == "left in floating point as asked: conv_0"
    assert apply_step(model, StaticInt8(exclude=("gemm_4",)), context).modified
    assert apply_step(model, DynamicInt8(exclude=("gemm_4",)), context).modified is False


def test_seven_bits_are_noted_for_what_they_are(tmp_path: Path, context: StepContext) -> None:
    model, context = prepared(tmp_path, "convolutional", context)
    asked = apply_step(model, StaticInt8(reduce_range=True), context)
    assert "7-bit weights, as asked" in asked.notes
    in_vain = apply_step(model, StaticInt8(reduce_range=True, scheme="u8u8"), context)
    assert "reduce_range was left alone: only U8S8 can saturate, not U8U8" in in_vain.notes


CALIBRATE = """
import sys
from dataclasses import replace
from pathlib import Path
from optimizers.contract.goal import Goal
from optimizers.contract.host import this_host
from optimizers.contract.profile import Task
from optimizers.contract.runtime import SessionSpec
from optimizers.contract.quantization import StaticInt8
from optimizers.quantization.static_int8 import apply
from optimizers.step import StepContext

def most_mib():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) >> 10

folder = Path(sys.argv[1])
context = StepContext(
    work_directory=folder,
    original=folder / "model.onnx",
    host=this_host(2),
    session=SessionSpec(),
    goal=Goal(),
    task=Task.OTHER,
    data={"calibration": folder / "calibration.npz"},
    seed=0,
    report=lambda share, text: None,
)
before = most_mib()
assert apply(folder / "model.onnx", StaticInt8(calibration=sys.argv[2]), context).modified
print(most_mib() - before)
"""


@pytest.mark.parametrize(
    ("calibration", "items", "side", "allowed_mib"),
    [("percentile", 512, 32, 60), ("entropy", 512, 32, 60), ("percentile", 20, 512, 250)],
)
def test_calibrating_holds_a_few_items_at_a_time(
    tmp_path: Path, calibration: str, items: int, side: int, allowed_mib: int
) -> None:
    """All 512 items at once would take 150 MiB, and 16 of the large ones 1100 MiB."""
    shape: list[int | str] = ["batch", 1, side, side]
    models.save(
        tmp_path / "model.onnx",
        [
            onnx.helper.make_node("Conv", ["x", "kernel"], ["s"], pads=[1, 1, 1, 1]),
            onnx.helper.make_node("Relu", ["s"], ["h"]),
            onnx.helper.make_node("GlobalAveragePool", ["h"], ["y"]),
        ],
        [("x", onnx.TensorProto.FLOAT, shape)],
        [("y", onnx.TensorProto.FLOAT, ["batch", 16, 1, 1])],
        {"kernel": np.random.default_rng(0).standard_normal((16, 1, 3, 3)).astype(np.float32)},
    )
    values = np.random.default_rng(1).random((items, 1, side, side), np.float32)
    np.savez(tmp_path / "calibration.npz", x=values)
    done = subprocess.run(
        [sys.executable, "-c", CALIBRATE, str(tmp_path), calibration],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout.split()[-1]) < allowed_mib, done.stdout


def usage_of(others: float) -> Callable[[], Usage]:
    """A machine on which others take so many processors' worth of every moment."""
    clock = iter(range(10**9))

    def read() -> Usage:
        seconds = float(next(clock))
        return Usage(clock=seconds, busy=others * seconds, stolen=0.0, own=0.0, processors=2)

    return read


def test_tune_session_says_when_others_were_in_its_way(
    tmp_path: Path, context: StepContext
) -> None:
    model, context = prepared(tmp_path, "perceptron", context)
    step = TuneSession(threads=(1,), arena=(True,), optimization=("all",))
    left_alone = tune_session.apply(model, step, context, usage_of(others=0.0))
    assert len(left_alone.notes) == 1
    disturbed = tune_session.apply(model, step, context, usage_of(others=1.0))
    assert (
        "others used the machine in 9 rounds, at the last of 3 attempts too"
        in (disturbed.notes[-1])
    )


def test_tune_session_names_what_it_did_not_try(tmp_path: Path, context: StepContext) -> None:
    model, context = prepared(tmp_path, "perceptron", context)
    context = replace(context, host=this_host(16))
    told: list[str] = []
    context = replace(context, report=lambda share, text: told.append(text))
    step = TuneSession(threads=(32, 2, 8, 16, 1, 4))
    result = tune_session.apply(model, step, context, usage_of(others=0.0))
    # One thread and all sixteen come first, each with 2 arenas x 2 levels; 15 of 20 are tried.
    assert "tried 15 of 20 arrangements, the extremes first" in result.notes
    assert "no more threads than the 16 processors were tried" in result.notes
    assert told[0] == "15 arrangements, runs of 8 rows"
    assert "arrangements 5 of 5" in told[-1], "three at a time beside the present one"


@pytest.mark.parametrize(
    ("most", "aim", "rows"),
    [
        (4, FigureName.THROUGHPUT, 4),
        (32, FigureName.COST, 8),
        (32, FigureName.LATENCY_P50, 1),
    ],
)
def test_tune_session_times_as_many_rows_as_are_joined(
    tmp_path: Path, context: StepContext, most: int, aim: FigureName, rows: int
) -> None:
    model, context = prepared(tmp_path, "perceptron", context)
    told: list[str] = []
    context = replace(
        context,
        session=replace(context.session, max_batch=most),
        goal=Goal(optimize=(aim,)),
        report=lambda share, text: told.append(text),
    )
    step = TuneSession(threads=(1,), arena=(True,), optimization=("all",))
    tune_session.apply(model, step, context, usage_of(others=0.0))
    assert told[0] == f"1 arrangements, runs of {rows} rows"
