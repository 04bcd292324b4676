"""Low rank: the nearest factors, fewer multiplications, and never more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from scipy import linalg

from optimizers.architecture import low_rank
from optimizers.architecture.low_rank import Factors, factor
from optimizers.contract.architecture import LowRank, Merge
from optimizers.contract.errors import InvalidDocument
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.graph import count_operators
from optimizers.step import StepContext
from optimizers.structure.affine import Affine
from optimizers.techniques import apply_step
from tests.support import models
from tests.support.contexts import step_context

Matrix = NDArray[np.float32]


@pytest.fixture
def context(tmp_path: Path) -> StepContext:
    return step_context(tmp_path)


def falling(rows: int, columns: int, *, ratio: float = 0.7, seed: int = 0) -> Matrix:
    """A matrix whose singular values are 1, ratio, ratio squared, ..."""
    random = np.random.default_rng(seed)
    size = min(rows, columns)
    left = np.linalg.qr(random.standard_normal((rows, size)))[0]
    right = np.linalg.qr(random.standard_normal((columns, size)))[0]
    return np.asarray((left * ratio ** np.arange(size)) @ right.T, dtype=np.float32)


def run(model: Path, values: Matrix) -> Matrix:
    session = Session(model, SessionSpec(optimization="disabled"))
    [answer] = session.run({"x": values})
    session.close()
    return np.asarray(answer, dtype=np.float32)


def weights_of(model: Path) -> dict[str, Matrix]:
    graph = onnx.load(str(model)).graph
    return {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}


def layers(path: Path) -> Path:
    """A product with a bias after it, a Gemm with a transposed weight, a narrow Gemm."""
    return models.save(
        path,
        [
            helper.make_node("MatMul", ["x", "w1"], ["p"], name="first"),
            helper.make_node("Add", ["p", "b1"], ["s"]),
            helper.make_node("Relu", ["s"], ["h"]),
            helper.make_node("Gemm", ["h", "w2", "b2"], ["g"], name="second", transB=1),
            helper.make_node("Gemm", ["g", "w3"], ["y"], name="third"),
        ],
        [("x", TensorProto.FLOAT, ["batch", 40])],
        [("y", TensorProto.FLOAT, ["batch", 2])],
        {
            "w1": falling(40, 60),
            "b1": np.linspace(-1, 1, 60, dtype=np.float32),
            "w2": falling(30, 60, seed=1),
            "b2": np.linspace(-1, 1, 30, dtype=np.float32),
            "w3": falling(30, 2, ratio=0.99, seed=2),
        },
    )


def assert_nearest(weight: Matrix, factors: Factors) -> None:
    """What Eckart and Young say of the best factors, by another library's singular values."""
    s = linalg.svdvals(weight.astype(np.float64))
    lost = np.linalg.norm(weight - factors.left @ factors.right)
    np.testing.assert_allclose(lost, np.sqrt(np.sum(s[factors.rank :] ** 2)), rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(factors.error, lost / np.linalg.norm(weight), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("keep", [0.5, 0.9, 0.999])
@pytest.mark.parametrize("shape", [(30, 50), (50, 30)])
def test_no_matrix_of_this_rank_is_nearer(shape: tuple[int, int], keep: float) -> None:
    weight = falling(*shape)
    for step in (LowRank(keep=keep), LowRank(by="rank", keep=keep)):
        assert_nearest(weight, factor(weight, step))
    s = linalg.svdvals(weight.astype(np.float64)) ** 2
    rank = factor(weight, LowRank(keep=keep)).rank
    assert s[:rank].sum() >= keep * s.sum() > s[: rank - 1].sum()
    assert factor(weight, LowRank(by="rank", keep=0.5)).rank == 15


def test_the_check_finds_factors_that_are_not_the_nearest() -> None:
    """The planted fault: the first columns of W instead of its singular vectors."""
    weight = falling(30, 50)
    worse = Factors(np.eye(30)[:, :10], weight[:10].astype(np.float64), 0.1)
    with pytest.raises(AssertionError):
        assert_nearest(weight, worse)


def test_layers_become_factors_where_that_saves(tmp_path: Path, context: StepContext) -> None:
    model = layers(tmp_path / "model.onnx")
    result = apply_step(model, LowRank(keep=0.99), context)
    made = weights_of(result.model)
    assert made["first.left.weight"].shape == (40, 7)
    assert made["first.right.weight"].shape == (7, 60)
    assert count_operators(result.model, "MatMul") == 2
    assert count_operators(result.model, "Gemm") == 3
    assert (
        result.notes[0] == "first: rank 7 of 40, relative error 0.082, 29% of its multiplications"
    )
    assert result.notes[2] == "third: rank 2 of 2 would save nothing"
    assert result.model.stat().st_size < 0.6 * model.stat().st_size
    given, values = weights_of(model), np.random.default_rng(1).standard_normal((5, 40))
    w1, w2 = (factor(w, LowRank(keep=0.99)) for w in (given["w1"], given["w2"].T))
    hidden = np.maximum(values @ (w1.left @ w1.right) + given["b1"], 0)
    wanted = (hidden @ (w2.left @ w2.right) + given["b2"]) @ given["w3"]
    np.testing.assert_allclose(run(result.model, values.astype(np.float32)), wanted, atol=1e-5)


def test_answers_come_nearer_with_the_energy_kept(tmp_path: Path, context: StepContext) -> None:
    model = layers(tmp_path / "model.onnx")
    values = np.random.default_rng(1).standard_normal((50, 40)).astype(np.float32)
    wanted = run(model, values)
    errors = []
    for keep in (0.5, 0.9, 0.99, 0.9999):
        found = run(apply_step(model, LowRank(keep=keep), context).model, values)
        errors.append(float(np.abs(found - wanted).mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.05 * errors[0]


def test_a_pointwise_convolution_becomes_two(tmp_path: Path, context: StepContext) -> None:
    weight = falling(24, 32)
    model = models.save(
        tmp_path / "model.onnx",
        [
            helper.make_node("Conv", ["x", "k", "b"], ["c"], name="wide", strides=[2, 2]),
            helper.make_node("Conv", ["c", "k3"], ["y"], name="spatial"),
        ],
        [("x", TensorProto.FLOAT, ["batch", 32, 9, 9])],
        [("y", TensorProto.FLOAT, ["batch", 2, 3, 3])],
        {
            "k": weight.reshape(24, 32, 1, 1),
            "b": np.ones(24, np.float32),
            "k3": falling(2, 24 * 9).reshape(2, 24, 3, 3),
        },
    )
    result = apply_step(model, LowRank(keep=0.999999), context)
    assert count_operators(result.model, "Conv") == 2, "rank 20 of 24 would not save"
    result = apply_step(model, LowRank(by="rank", keep=0.5), context)
    assert count_operators(result.model, "Conv") == 3
    values = np.random.default_rng(1).standard_normal((3, 32, 9, 9)).astype(np.float32)
    factors = factor(weight.T, LowRank(by="rank", keep=0.5))
    low = models.save(
        tmp_path / "low.onnx",
        list(onnx.load(str(model)).graph.node),
        [("x", TensorProto.FLOAT, ["batch", 32, 9, 9])],
        [("y", TensorProto.FLOAT, ["batch", 2, 3, 3])],
        weights_of(model)
        | {"k": (factors.left @ factors.right).T.reshape(24, 32, 1, 1).astype(np.float32)},
    )
    np.testing.assert_allclose(run(result.model, values), run(low, values), atol=1e-5)


def test_merging_does_not_undo_it(tmp_path: Path, context: StepContext) -> None:
    model = layers(tmp_path / "model.onnx")
    result = apply_step(model, LowRank(keep=0.9, exclude=("second",)), context)
    assert "left alone as asked: second" in result.notes
    merged = apply_step(result.model, Merge(which=("linear",)), context)
    assert weights_of(merged.model)["first.left.weight"].shape == (40, 4)


def test_nothing_to_factor_is_said(tmp_path: Path, context: StepContext) -> None:
    """Random numbers have no low rank."""
    model = models.linear(tmp_path / "model.onnx", inputs=16, outputs=16)
    result = apply_step(model, LowRank(keep=0.99), context)
    assert (result.modified, result.model) == (False, model)
    assert result.notes[0] == "none of 1 weights was factored"
    assert result.notes[1].endswith("of 16 would save nothing")
    none = apply_step(models.two_inputs(tmp_path / "none.onnx"), LowRank(), context)
    assert none.notes == ("none of 0 weights was factored",)


def test_a_sum_inside_a_branch_is_no_bias(tmp_path: Path, context: StepContext) -> None:
    """The only reader of a product adds something to it, but only where a condition holds."""
    kind = TensorProto.FLOAT
    added = helper.make_graph(
        [helper.make_node("Add", ["p", "b"], ["a"])],
        "branch",
        [],
        [helper.make_tensor_value_info("a", kind, ["batch", 30])],
    )
    other = helper.make_graph(
        [helper.make_node("Gemm", ["x", "o"], ["e"])],
        "branch",
        [],
        [helper.make_tensor_value_info("e", kind, ["batch", 30])],
    )
    model = models.save(
        tmp_path / "model.onnx",
        [
            helper.make_node("MatMul", ["x", "w"], ["p"], name="product"),
            helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
            helper.make_node("Greater", ["sum", "zero"], ["positive"]),
            helper.make_node("If", ["positive"], ["y"], then_branch=added, else_branch=other),
        ],
        [("x", kind, ["batch", 40])],
        [("y", kind, ["batch", 30])],
        {
            "w": falling(40, 30),
            "o": falling(40, 30, seed=1),
            "b": np.ones(30, np.float32),
            "zero": np.zeros((), np.float32),
        },
    )
    result = apply_step(model, LowRank(keep=0.99), context)
    assert weights_of(result.model)["product.left.weight"].shape == (40, 7)
    values = np.abs(np.random.default_rng(1).standard_normal((5, 40))).astype(np.float32)
    factors = factor(falling(40, 30), LowRank(keep=0.99))
    wanted = values @ (factors.left @ factors.right) + 1
    np.testing.assert_allclose(run(result.model, values), wanted, atol=1e-5)
    np.testing.assert_allclose(run(result.model, -values), run(model, -values), atol=1e-6)


def test_a_result_that_cannot_be_opened_is_refused(
    tmp_path: Path, context: StepContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted fault: an operator that there is not."""
    model = layers(tmp_path / "model.onnx")
    monkeypatch.setattr(low_rank, "_replace", lambda layer, factors: spoil(layer))
    result = apply_step(model, LowRank(keep=0.99), context)
    assert (result.modified, result.model) == (False, model)
    assert result.notes[0].startswith("left as it was: it cannot be opened")


def spoil(layer: Affine) -> None:
    layer.product.op_type = "NoSuchOperator"


def test_a_weight_that_several_read_is_left_alone(tmp_path: Path, context: StepContext) -> None:
    """Factored once a reader, it would be stored as often."""
    model = models.save(
        tmp_path / "model.onnx",
        [
            helper.make_node("MatMul", ["x", "w"], ["p"], name="first"),
            helper.make_node("Relu", ["p"], ["r"]),
            helper.make_node("MatMul", ["r", "w"], ["q"], name="second"),
            helper.make_node("MatMul", ["q", "v"], ["y"], name="third"),
        ],
        [("x", TensorProto.FLOAT, ["batch", 30])],
        [("y", TensorProto.FLOAT, ["batch", 40])],
        {"w": falling(30, 30), "v": falling(30, 40, seed=1)},
    )
    result = apply_step(model, LowRank(keep=0.99), context)
    assert sorted(weights_of(result.model)) == ["third.left.weight", "third.right.weight", "w"]
    assert result.notes[:2] == tuple(
        f"left alone, for other nodes read its weight: {name}" for name in ("first", "second")
    )


def test_parameters_out_of_range_are_named(tmp_path: Path, context: StepContext) -> None:
    for keep in (0.0, 1.0):
        with pytest.raises(InvalidDocument, match=r"low_rank.keep must be in \(0, 1\), got"):
            LowRank(keep=keep)
    model = layers(tmp_path / "model.onnx")
    with pytest.raises(InvalidDocument, match="exclude names fourth"):
        apply_step(model, LowRank(exclude=("fourth",)), context)
