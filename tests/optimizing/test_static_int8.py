"""What static int8 does besides rounding: equalise, correct, rank, and look at the fusion."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from optimizers.contract.errors import InvalidDocument
from optimizers.contract.goal import Goal
from optimizers.contract.host import this_host
from optimizers.contract.profile import Task
from optimizers.contract.quantization import DynamicInt8, StaticInt8
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.graph import prepare
from optimizers.pipeline import apply_step
from optimizers.quantization import integer_model
from optimizers.quantization.bias_correction import copy_biases, correct_biases, give_biases
from optimizers.quantization.equalization import equalize, scale_pair
from optimizers.quantization.leftovers import leftovers
from optimizers.quantization.scalable_pairs import Pair, scalable_pairs
from optimizers.quantization.sensitivity import Ranking, most_different, rank, sqnr
from optimizers.step import StepContext, StepResult
from tests.support import models

Array = NDArray[np.float32]
IMAGES: list[int | str] = ["batch", 3, 10, 10]


def separable(path: Path, *, between: tuple[str, ...] = ("Relu",), spread: float = 1.5) -> Path:
    """Conv, depthwise Conv, Conv, pooling, two Gemms; channels' ranges lie far apart."""
    random = np.random.default_rng(3)

    def weight(outputs: int, *rest: int) -> Array:
        ranges = np.exp(random.normal(0, spread, (outputs, *(1 for _ in rest))))
        values = random.standard_normal((outputs, *rest)) * np.sqrt(2 / np.prod(rest)) * ranges
        return np.asarray(values, np.float32)

    def bias(outputs: int) -> Array:
        return np.asarray(random.normal(0, 0.2, outputs), np.float32)

    weights: dict[str, NDArray[Any]] = {
        "k0": weight(8, 3, 3, 3),
        "b0": bias(8),
        "k1": weight(8, 1, 3, 3),
        "b1": bias(8),
        "k2": weight(12, 8, 1, 1),
        "b2": bias(12),
        "w3": weight(16, 48),
        "b3": bias(16),
        "w4": weight(5, 16).T.copy(),
        "b4": bias(5),
    }
    bounds = {"zero": np.array(0, np.float32), "six": np.array(6, np.float32)}
    weights |= {name: bounds[name] for name in between[1:]}

    def active(index: int) -> onnx.NodeProto:
        return helper.make_node(between[0], [f"s{index}", *between[1:]], [f"h{index}"])

    nodes = [
        helper.make_node("Conv", ["x", "k0", "b0"], ["s0"], name="first"),
        active(0),
        helper.make_node("Conv", ["h0", "k1", "b1"], ["s1"], name="depthwise", group=8),
        active(1),
        helper.make_node("Conv", ["h1", "k2", "b2"], ["s2"], name="pointwise"),
        active(2),
        helper.make_node("MaxPool", ["h2"], ["m"], kernel_shape=[3, 3], strides=[3, 3]),
        helper.make_node("Flatten", ["m"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["s3"], name="wide", transB=1),
        active(3),
        helper.make_node("Gemm", ["h3", "w4", "b4"], ["y"], name="last"),
    ]
    return models.save(
        path,
        nodes,
        [("x", TensorProto.FLOAT, IMAGES)],
        [("y", TensorProto.FLOAT, ["batch", 5])],
        weights,
    )


def pictures(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, 3, 10, 10)).astype(np.float32)


def answer(model: Path, x: Array, spec: SessionSpec | None = None) -> Array:
    session = Session(model, spec or SessionSpec())
    [found] = session.run({"x": x})
    session.close()
    return np.asarray(found)


def is_lossless(one: Path, other: Path) -> bool:
    x = pictures(20, seed=9)
    wanted, found = answer(one, x), answer(other, x)
    return bool(np.abs(wanted - found).max() <= 1e-5 * np.abs(wanted).max())


def decibels(wanted: Array, found: Array) -> float:
    noise = sum(float(a - b) ** 2 for a, b in zip(wanted.flat, found.flat, strict=True))
    return float(10 * np.log10(sum(float(a) ** 2 for a in wanted.flat) / noise))


@pytest.fixture
def context(tmp_path: Path) -> StepContext:
    work = tmp_path / "work"
    work.mkdir()
    np.savez(tmp_path / "calibration.npz", x=pictures(48))
    return StepContext(
        work_directory=work,
        original=tmp_path / "model.onnx",
        host=this_host(2),
        session=SessionSpec(),
        goal=Goal(),
        task=Task.CLASSIFICATION,
        data={"calibration": tmp_path / "calibration.npz"},
        seed=0,
        report=lambda share, text: None,
    )


def quantised(model: Path, step: StaticInt8, context: StepContext) -> StepResult:
    """Like `apply_step`, with a file that the next one does not write over."""
    result = apply_step(model, step, context)
    kept = model.with_name(f"{len(list(model.parent.iterdir()))}.onnx")
    kept.write_bytes(result.model.read_bytes())
    return replace(result, model=kept)


# Equalisation


def test_equalising_changes_no_answer(tmp_path: Path) -> None:
    model = prepare(separable(tmp_path / "model.onnx"), tmp_path / "prepared.onnx")
    done = equalize(model, tmp_path / "equal.onnx")
    assert done.pairs == 4, "depthwise, pointwise, flattened to a product, and two products"
    assert is_lossless(model, tmp_path / "equal.onnx")
    changed = onnx.load(str(tmp_path / "equal.onnx"))
    kernel = next(one for one in changed.graph.initializer if one.name == "k1")
    values = numpy_helper.to_array(kernel).copy()
    values[3] *= 1.01
    kernel.CopyFrom(numpy_helper.from_array(values, "k1"))
    onnx.save(changed, str(tmp_path / "wrong.onnx"))
    assert not is_lossless(model, tmp_path / "wrong.onnx"), "the check would not notice a fault"


def test_equalising_gives_both_layers_of_a_channel_the_same_range(tmp_path: Path) -> None:
    model = prepare(separable(tmp_path / "model.onnx"), tmp_path / "prepared.onnx")
    done = equalize(model, tmp_path / "equal.onnx")
    stored = onnx.load(str(tmp_path / "equal.onnx")).graph.initializer
    weights = {one.name: numpy_helper.to_array(one) for one in stored}
    for channel in range(8):
        first, depthwise = weights["k0"][channel], weights["k1"][channel]
        pointwise = weights["k2"][:, channel]
        for one, other in ((first, depthwise), (depthwise, pointwise)):
            assert np.abs(one).max() == pytest.approx(np.abs(other).max(), rel=0.01)
    for channel in range(12):  # two by two pixels of a channel lie side by side in a Gemm's weight
        block = weights["w3"][:, 4 * channel : 4 * channel + 4]
        assert np.abs(block).max() == pytest.approx(np.abs(weights["k2"][channel]).max(), rel=0.01)
    assert done.spread[1] < done.spread[0]


def test_one_pair_takes_the_scales_of_the_paper() -> None:
    """s_i = (1 / r2_i) sqrt(r1_i r2_i); W1_i / s_i, b_i / s_i, and W2 times s_i by column."""
    first = np.array([[4.0, -16.0], [0.5, 0.25], [0.0, 0.0]])
    bias, second = np.array([2.0, 3.0, 1.0]), np.array([[1.0, 2.0, 5.0], [-0.25, 8.0, 1.0]])
    weights = {"first": first.copy(), "bias": bias.copy(), "second": second.copy()}
    pair = Pair(
        first="first",
        bias="bias",
        second="second",
        first_is_transposed=False,
        second_is_transposed=False,
        channels=3,
        group=1,
    )
    assert scale_pair(weights, pair) == pytest.approx(3.0)
    s = np.array([4.0, 0.25, 1.0])  # sqrt(16 * 1) / 1, sqrt(0.5 * 8) / 8, and 1 for a dead channel
    np.testing.assert_allclose(weights["first"], first / s[:, None])
    np.testing.assert_allclose(weights["bias"], bias / s)
    np.testing.assert_allclose(weights["second"], second * s)


def test_equalising_helps_weights_with_one_scale(tmp_path: Path, context: StepContext) -> None:
    model, x = separable(tmp_path / "model.onnx"), pictures(200, seed=5)
    plain = quantised(model, StaticInt8(per_channel=False), context)
    equal = quantised(model, StaticInt8(per_channel=False, equalize=True), context)
    wanted = answer(model, x)
    gained = decibels(wanted, answer(equal.model, x)) - decibels(wanted, answer(plain.model, x))
    assert gained > 3, f"{gained} dB"
    assert any(note.startswith("equalised 4 pairs of layers in ") for note in equal.notes)


@pytest.mark.parametrize(
    ("between", "pairs", "bounded"),
    [(("Clip", "zero", "six"), 0, 4), (("Clip", "zero"), 4, 0), (("Clip", "six"), 0, 4)],
)
def test_only_a_clip_without_a_bound_may_lie_between(
    tmp_path: Path, between: tuple[str, ...], pairs: int, bounded: int
) -> None:
    model = separable(tmp_path / "model.onnx", between=between)
    done = equalize(model, tmp_path / "equal.onnx")
    assert (done.pairs, done.bounded) == (pairs, bounded)
    assert is_lossless(model, tmp_path / "equal.onnx")
    if bounded:
        left = "equalised no pair of layers, 4 pairs with a bounded Clip between left alone"
        assert str(done) == left


def changed(change: Callable[[onnx.GraphProto], None], path: Path) -> onnx.GraphProto:
    graph = onnx.load(str(separable(path))).graph
    change(graph)
    return graph


def read_twice(graph: onnx.GraphProto) -> None:
    graph.node.append(helper.make_node("Relu", ["h0"], ["z"]))


def show(graph: onnx.GraphProto) -> None:
    graph.output.append(helper.make_tensor_value_info("s0", TensorProto.FLOAT, None))


def share_a_weight(graph: onnx.GraphProto) -> None:
    graph.node.append(helper.make_node("Conv", ["x", "k0"], ["z"]))


def let_callers_set_a_weight(graph: onnx.GraphProto) -> None:
    graph.input.append(helper.make_tensor_value_info("k0", TensorProto.FLOAT, [8, 3, 3, 3]))


@pytest.mark.parametrize("change", [read_twice, show, share_a_weight, let_callers_set_a_weight])
def test_what_others_read_is_not_scaled(
    tmp_path: Path, change: Callable[[onnx.GraphProto], None]
) -> None:
    pairs, _ = scalable_pairs(changed(change, tmp_path / "model.onnx"))
    assert "k0" not in {pair.first for pair in pairs}
    assert {pair.first for pair in pairs} == {"k1", "k2", "w3"}


def test_a_product_over_the_width_of_a_picture_is_no_successor(tmp_path: Path) -> None:
    """A MatMul after a Conv sums over the width; its rows are not the Conv's channels."""
    model = models.save(
        tmp_path / "model.onnx",
        [
            helper.make_node("Conv", ["x", "k"], ["s"], name="conv"),
            helper.make_node("Relu", ["s"], ["h"]),
            helper.make_node("MatMul", ["h", "w"], ["y"], name="matmul"),
        ],
        [("x", TensorProto.FLOAT, IMAGES)],
        [("y", TensorProto.FLOAT, ["batch", 8, 8, 2])],
        {"k": np.ones((8, 3, 3, 3), np.float32), "w": np.ones((8, 2), np.float32)},
    )
    assert scalable_pairs(onnx.load(str(model)).graph) == ((), 0)


# Bias correction


def mean_answers_apart(model: Path, other: Path, x: Array) -> float:
    one, two = (answer(each, x).mean(axis=0, dtype=np.float64) for each in (model, other))
    return float(np.abs(one - two).max())


def test_correcting_biases_takes_the_shift_off_the_answers(
    tmp_path: Path, context: StepContext
) -> None:
    model, x = separable(tmp_path / "model.onnx"), pictures(48)
    plain = quantised(model, StaticInt8(), context)
    right = quantised(model, StaticInt8(correct_bias=True), context)
    before, after = (mean_answers_apart(model, each.model, x) for each in (plain, right))
    # Answers are rounded to 1/255 of their range after the bias; its mean error is far smaller.
    assert after < 0.35 * before
    assert any(note.startswith("corrected the bias of 5 layers") for note in right.notes)
    unseen = pictures(300, seed=4)
    wanted = answer(model, unseen)
    gained = decibels(wanted, answer(right.model, unseen)) - decibels(
        wanted, answer(plain.model, unseen)
    )
    assert gained > 0, f"{gained} dB"


def planted(source: Path, target: Path, steps: int) -> Path:
    """The same int8 model with every stored bias, not its zero point, moved by some steps."""
    model = onnx.load(str(source))
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.INT32 and tensor.name.endswith("_quantized"):
            moved = numpy_helper.to_array(tensor) + np.int32(steps)
            tensor.CopyFrom(numpy_helper.from_array(moved, tensor.name))
    onnx.save(model, str(target))
    return target


def test_a_shift_put_into_the_biases_is_found_again(tmp_path: Path, context: StepContext) -> None:
    model, x = separable(tmp_path / "model.onnx"), pictures(48)
    right = quantised(model, StaticInt8(correct_bias=True), context)
    wrong = planted(right.model, tmp_path / "wrong.onnx", 3000)
    shifted = mean_answers_apart(model, wrong, x)
    assert shifted > 10 * mean_answers_apart(model, right.model, x)
    names = ["first", "depthwise", "pointwise", "wide", "last"]
    prepared = context.work_directory / "prepared.onnx"
    done = correct_biases(
        prepared, wrong, tmp_path / "again.onnx", names, {"x": x}, lambda share: None
    )
    assert done.after < 0.01 * done.before
    assert mean_answers_apart(model, tmp_path / "again.onnx", x) < 0.1 * shifted
    copy_biases(right.model, wrong, names)
    assert mean_answers_apart(right.model, wrong, x) == 0


def test_layers_without_a_bias_get_one_or_are_named(tmp_path: Path, context: StepContext) -> None:
    random = np.random.default_rng(1)
    model = models.save(
        tmp_path / "model.onnx",
        [
            helper.make_node("Conv", ["x", "k"], ["s"], name="conv"),
            helper.make_node("Relu", ["s"], ["h"]),
            helper.make_node("MatMul", ["h", "w"], ["y"], name="matmul"),
        ],
        [("x", TensorProto.FLOAT, IMAGES)],
        [("y", TensorProto.FLOAT, ["batch", 4, 8, 2])],
        {
            "k": random.standard_normal((4, 3, 3, 3)).astype(np.float32),
            "w": random.standard_normal((8, 2)).astype(np.float32),
        },
    )
    with_zeros = tmp_path / "zeros.onnx"
    with_zeros.write_bytes(model.read_bytes())
    give_biases(with_zeros)
    np.testing.assert_array_equal(answer(model, pictures(4)), answer(with_zeros, pictures(4)))
    result = apply_step(model, StaticInt8(correct_bias=True), context)
    [note] = [note for note in result.notes if note.startswith("corrected")]
    assert note.startswith("corrected the bias of 1 layers")
    assert note.endswith("; without a bias: matmul")


# Sensitive nodes


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
    result = quantised(model, StaticInt8(keep_float=1, per_channel=False), context)
    [note] = [note for note in result.notes if note.startswith("kept in floating point")]
    assert note.startswith(f"kept in floating point as most sensitive: {best} ({alone[best]:.1f}")
    assert note.endswith("on the 48 items that differ most; tried 5 of 5 nodes")
    assert decibels(wanted, answer(result.model, x)) == pytest.approx(alone[best])
    assert "quantised 4 of 5" in result.notes[0]


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


# What the runtime makes of it


def test_a_node_left_in_floating_point_stays_there_when_it_is_opened(
    tmp_path: Path, context: StepContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime would quantise its weight with one scale: the plain library shows it."""
    model, x = separable(tmp_path / "model.onnx"), pictures(20)
    ours = quantised(model, StaticInt8(exclude=("depthwise",)), context)
    assert leftovers(ours.model, SessionSpec()).floating == 1
    assert "4 products compute in integers, 1 in floating point" in ours.notes[-1]
    monkeypatch.setattr(integer_model, "keep_floating", lambda path: None)
    plain = apply_step(model, StaticInt8(exclude=("depthwise",)), context)
    assert leftovers(plain.model, SessionSpec()).floating == 0, "onnxruntime changed: see its notes"
    as_written = SessionSpec(optimization="disabled")
    np.testing.assert_array_equal(
        answer(ours.model, x, as_written), answer(plain.model, x, as_written)
    )
    wanted = answer(ours.model, x, as_written)
    apart = [np.abs(wanted - answer(each.model, x)).max() for each in (ours, plain)]
    assert apart[0] < apart[1]


def test_a_node_that_never_was_to_be_quantised_stays_as_it_is(
    tmp_path: Path, context: StepContext
) -> None:
    """The same holds of a ConvTranspose between two convolutions."""
    random = np.random.default_rng(1)
    model = models.save(
        tmp_path / "model.onnx",
        [
            helper.make_node("Conv", ["x", "k"], ["s"]),
            helper.make_node("ConvTranspose", ["s", "t"], ["u"]),
            helper.make_node("Conv", ["u", "l"], ["y"]),
        ],
        [("x", TensorProto.FLOAT, IMAGES)],
        [("y", TensorProto.FLOAT, ["batch", 2, 8, 8])],
        {
            "k": random.standard_normal((4, 3, 3, 3)).astype(np.float32),
            "t": random.standard_normal((4, 5, 3, 3)).astype(np.float32),
            "l": random.standard_normal((2, 5, 3, 3)).astype(np.float32),
        },
    )
    result = apply_step(model, StaticInt8(), context)
    kept = [
        node.op_type
        for node in onnx.load(str(result.model)).graph.node
        if node.op_type == "DequantizeLinear" and "_of_" in node.name
    ]
    assert len(kept) == 1
    wanted = answer(model, pictures(8))
    assert decibels(wanted, answer(result.model, pictures(8))) > 25


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="a trap of x86")
def test_s8s8_is_noted_for_what_it_is_on_x86(tmp_path: Path, context: StepContext) -> None:
    model = separable(tmp_path / "model.onnx")
    suits, slow = (
        apply_step(model, StaticInt8(scheme=scheme), context) for scheme in ("u8s8", "s8s8")
    )
    assert suits.notes[-1] == (
        "after fusion 5 products compute in integers, 0 in floating point, 2 conversions are left"
    )
    assert slow.notes[-1] == "S8S8 is slower than floating point on this processor; U8S8 suits it"
    left = int(slow.notes[-2].split(", ")[-1].split(" ")[0])
    assert left > 2, "an S8S8 model keeps its Relus and the conversions around them"


def test_dynamic_int8_says_what_is_left_after_fusion(tmp_path: Path, context: StepContext) -> None:
    model = models.perceptron(tmp_path / "model.onnx", sizes=(16, 128, 128, 4))
    result = apply_step(model, DynamicInt8(exclude=("matmul1",)), context)
    assert result.notes[-1] == (
        "after fusion 2 products compute in integers, 1 in floating point, 0 conversions are left"
    )


def test_nothing_to_quantise_changes_nothing(tmp_path: Path, context: StepContext) -> None:
    model = separable(tmp_path / "model.onnx")
    names = ("first", "depthwise", "pointwise", "wide", "last")
    step = StaticInt8(exclude=names, equalize=True, correct_bias=True, keep_float=2)
    result = apply_step(model, step, context)
    assert (result.modified, result.model) == (False, model)
    assert result.notes[0].startswith("0 of 5 convolutions and products have a constant weight")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"keep_float": -1}, r"static_int8.keep_float must be at least 0, got -1"),
        ({"rank_seconds": 0}, r"static_int8.rank_seconds must be above 0, got 0"),
        ({"rank_seconds": float("nan")}, r"rank_seconds must be above 0, got nan"),
    ],
)
def test_parameters_out_of_range_are_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidDocument, match=message):
        StaticInt8(**parameters)
