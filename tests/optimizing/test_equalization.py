"""Cross-layer equalisation changes no answer, and makes int8 models better."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from optimizers.contract.quantization import StaticInt8
from optimizers.graph import prepare
from optimizers.quantization.equalization import equalize, scale_pair
from optimizers.quantization.layer_pair import Pair
from optimizers.quantization.scalable_pairs import scalable_pairs
from optimizers.step import StepContext
from tests.support import models
from tests.support.quantized import (
    IMAGES,
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


def is_lossless(one: Path, other: Path) -> bool:
    x = pictures(20, seed=9)
    wanted, found = answer(one, x), answer(other, x)
    return bool(np.abs(wanted - found).max() <= 1e-5 * np.abs(wanted).max())


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


@pytest.mark.parametrize(("columns", "known", "is_pair"), [(48, 2, 1), (24, 2, 0), (48, 0, 0)])
def test_a_reshape_is_passed_where_it_is_known_to_flatten(
    tmp_path: Path, columns: int, known: int, is_pair: bool
) -> None:
    """Exporters write it for Flatten; with 24 columns, half the channels become other items."""

    def reshape(graph: onnx.GraphProto) -> None:
        flatten = next(node for node in graph.node if node.op_type == "Flatten")
        flatten.CopyFrom(helper.make_node("Reshape", ["m", "shape"], ["f"]))
        weights = {one.name: one for one in graph.initializer}
        short = numpy_helper.to_array(weights["w3"])[:, :columns]
        weights["w3"].CopyFrom(numpy_helper.from_array(short.copy(), "w3"))
        graph.initializer.append(numpy_helper.from_array(np.array([-1, columns]), "shape"))
        shape = ["batch", 12, *([known, known] if known else ["h", "w"])]
        graph.value_info.append(helper.make_tensor_value_info("m", TensorProto.FLOAT, shape))

    pairs, _ = scalable_pairs(changed(reshape, tmp_path / "model.onnx"))
    assert [pair.first for pair in pairs].count("k2") == is_pair
    assert {pair.first for pair in pairs} >= {"k0", "k1", "w3"}


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
