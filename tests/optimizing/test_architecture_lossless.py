"""Simplifying and merging: fewer operators, the same answers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from optimizers.architecture import merge
from optimizers.architecture.proof import why_different
from optimizers.contract.architecture import MERGINGS, Merge, Simplify
from optimizers.contract.errors import InvalidDocument
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.graph import count_operators
from optimizers.step import StepContext
from optimizers.techniques import apply_step
from tests.support import models
from tests.support.contexts import step_context

FLOAT = TensorProto.FLOAT
Weights = dict[str, NDArray[Any]]


@pytest.fixture
def context(tmp_path: Path) -> StepContext:
    return step_context(tmp_path)


def weights(seed: int = 0, **shapes: tuple[int, ...]) -> Weights:
    random = np.random.default_rng(seed)
    return {
        name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()
    }


def node(operator: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs.split(), outputs.split(), **attributes)


def statistics(seed: int, channels: int) -> Weights:
    random = np.random.default_rng(seed)
    return {
        f"{name}{seed}": values.astype(np.float32)
        for name, values in (
            ("gamma", random.uniform(0.5, 2, channels)),
            ("beta", random.standard_normal(channels)),
            ("mean", random.standard_normal(channels)),
            ("var", random.uniform(0.1, 3, channels)),
        )
    }


def batch_norm(seed: int, source: str, result: str) -> onnx.NodeProto:
    given = f"{source} gamma{seed} beta{seed} mean{seed} var{seed}"
    return node("BatchNormalization", given, result, epsilon=1e-3)


def run(model: Path, *, items: int = 5, seed: int = 3) -> list[NDArray[Any]]:
    session = Session(model, SessionSpec(optimization="disabled"))
    [spec] = session.signature.inputs
    shape = (items, *(7 if length < 0 else length for length in spec.shape[1:]))
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    answers = session.run({spec.name: values})
    session.close()
    return answers


def assert_same(one: Path, other: Path, tolerance: float) -> None:
    for items in (1, 5):
        for wanted, found in zip(run(one, items=items), run(other, items=items), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * abs(wanted).max())


def operators(model: Path) -> Counter[str]:
    return Counter(each.op_type for each in onnx.load(str(model)).graph.node)


def cluttered(path: Path) -> Path:
    """A product with everything around it that simplifying removes."""
    given = weights(w=(4, 6), b=(4,)) | {
        "zero": np.zeros((), np.float32),
        "one": np.ones((), np.float32),
        "two": np.full(4, 2, np.float32),
        "half": np.full(4, 0.5, np.float32),
        "again": np.full(4, 0.5, np.float32),
    }
    return models.save(
        path,
        [
            node("Transpose", "w", "wt", perm=[1, 0]),
            node("MatMul", "x wt", "p"),
            node("Identity", "p", "i"),
            node("Mul", "i one", "m"),
            node("Add", "m zero", "a"),
            node("Mul", "half two", "c"),
            node("Add", "a c", "s1"),
            node("Add", "a c", "s2"),
            node("Mul", "s1 half", "h1"),
            node("Mul", "s2 again", "h2"),
            node("Exp", "x", "unused"),
            node("Add", "h1 h2", "y"),
            node("Identity", "h2", "z"),
        ],
        [("x", FLOAT, ["batch", 6])],
        [("y", FLOAT, ["batch", 4]), ("z", FLOAT, ["batch", 4])],
        given,
    )


def test_simplify_leaves_only_what_computes(tmp_path: Path, context: StepContext) -> None:
    model = cluttered(tmp_path / "model.onnx")
    result = apply_step(model, Simplify(), context)
    assert result.modified
    assert operators(result.model) == {"MatMul": 1, "Add": 2, "Mul": 1}
    assert len(onnx.load(str(result.model)).graph.initializer) == 3
    assert result.notes[0].startswith("13 nodes became 4, 7 constants 3")
    assert_same(model, result.model, 1e-6)
    again = apply_step(result.model, Simplify(), context)
    assert not again.modified
    assert again.notes == ("nothing is constant, unused, without effect or there twice",)


def test_simplify_keeps_the_names_of_outputs_that_become_one_value(
    tmp_path: Path, context: StepContext
) -> None:
    model = models.save(
        tmp_path / "model.onnx",
        [
            node("Exp", "x", "e"),
            node("Identity", "e", "a"),
            node("Identity", "e", "b"),
            node("Identity", "x", "c"),
            node("Exp", "x", "d"),
        ],
        [("x", FLOAT, ["batch", 3])],
        [(name, FLOAT, ["batch", 3]) for name in "abcd"],
    )
    result = apply_step(model, Simplify(), context)
    assert result.modified
    assert operators(result.model)["Exp"] == 1
    graph = onnx.load(str(result.model)).graph
    assert [value.name for value in graph.output] == list("abcd")
    assert_same(model, result.model, 0.0)


def test_simplify_keeps_a_branch_that_hands_on_what_is_outside(
    tmp_path: Path, context: StepContext
) -> None:
    branches = {
        f"{name}_branch": helper.make_graph(
            [node("Identity", source, result)],
            name,
            [],
            [helper.make_tensor_value_info(result, FLOAT, ["batch", 3])],
        )
        for name, source, result in (("then", "e", "t"), ("else", "i", "f"))
    }
    model = models.save(
        tmp_path / "model.onnx",
        [
            node("Exp", "x", "e"),
            node("Identity", "e", "i"),
            node("ReduceSum", "x", "sum", keepdims=0),
            node("Greater", "sum zero", "positive"),
            node("If", "positive", "y", **branches),
        ],
        [("x", FLOAT, ["batch", 3])],
        [("y", FLOAT, ["batch", 3])],
        {"zero": np.zeros((), np.float32)},
    )
    result = apply_step(model, Simplify(), context)
    assert result.modified
    assert operators(result.model) == {"Exp": 1, "ReduceSum": 1, "Greater": 1, "If": 1}
    assert_same(model, result.model, 0.0)


def test_simplify_makes_no_giant_constants(tmp_path: Path, context: StepContext) -> None:
    """A row stretched to a million numbers stays a row and its Expand."""
    model = models.save(
        tmp_path / "model.onnx",
        [
            node("Expand", "row shape", "table"),
            node("Identity", "x", "i"),
            node("Add", "i table", "y"),
        ],
        [("x", FLOAT, ["batch", 1000, 1000])],
        [("y", FLOAT, ["batch", 1000, 1000])],
        weights(row=(1, 1000)) | {"shape": np.array([1000, 1000], np.int64)},
    )
    result = apply_step(model, Simplify(), context)
    assert result.model.stat().st_size < 2 * model.stat().st_size


def test_simplify_keeps_narrow_weights_narrow(tmp_path: Path, context: StepContext) -> None:
    """An int8 weight of 64 x 64 stays one; one of 4 x 4 becomes float32, for it is small."""
    random = np.random.default_rng(0)
    model = models.save(
        tmp_path / "model.onnx",
        [
            node("Identity", "x", "i"),
            node("Cast", "large", "wide", to=FLOAT),
            node("MatMul", "i wide", "h"),
            node("Slice", "h zero four axis", "s"),
            node("Cast", "small", "w", to=FLOAT),
            node("MatMul", "s w", "y"),
        ],
        [("x", FLOAT, ["batch", 64])],
        [("y", FLOAT, ["batch", 4])],
        {
            "large": random.integers(-128, 128, (64, 64)).astype(np.int8),
            "small": random.integers(-128, 128, (4, 4)).astype(np.int8),
            "zero": np.array([0], np.int64),
            "four": np.array([4], np.int64),
            "axis": np.array([1], np.int64),
        },
    )
    result = apply_step(model, Simplify(), context)
    assert operators(result.model) == {"Cast": 1, "MatMul": 2, "Slice": 1}
    assert result.model.stat().st_size < 1.2 * model.stat().st_size
    assert_same(model, result.model, 1e-6)


def test_simplify_never_joins_what_is_random(tmp_path: Path, context: StepContext) -> None:
    random = {"shape": [2, 3], "dtype": FLOAT}
    model = models.save(
        tmp_path / "model.onnx",
        [
            node("RandomNormal", "", "r1", **random),
            node("RandomNormal", "", "r2", **random),
            node("Sub", "r1 r2", "d"),
            node("ReduceSum", "d", "s", keepdims=0),
            node("Identity", "x", "i"),
            node("Add", "i s", "y"),
        ],
        [("x", FLOAT, ["batch", 3])],
        [("y", FLOAT, ["batch", 3])],
    )
    result = apply_step(model, Simplify(), context)
    assert count_operators(result.model, "RandomNormal") == 2


def normalised(path: Path) -> Path:
    """Conv and Gemm, each with its BatchNormalization."""
    return models.save(
        path,
        [
            node("Conv", "x k", "c", pads=[1, 1, 1, 1], name="conv"),
            batch_norm(1, "c", "n"),
            node("Relu", "n", "r"),
            node("GlobalAveragePool", "r", "g"),
            node("Flatten", "g", "f"),
            node("Gemm", "f w b", "h", transB=1, alpha=0.5, name="gemm"),
            batch_norm(2, "h", "y"),
        ],
        [("x", FLOAT, ["batch", 3, 8, 8])],
        [("y", FLOAT, ["batch", 5])],
        weights(k=(4, 3, 3, 3), w=(5, 4), b=(5,)) | statistics(1, 4) | statistics(2, 5),
    )


def test_batch_norm_goes_into_convolutions_and_products(
    tmp_path: Path, context: StepContext
) -> None:
    model = normalised(tmp_path / "model.onnx")
    result = apply_step(model, Merge(), context)
    assert count_operators(result.model, "BatchNormalization") == 0
    assert result.notes == ("2 BatchNormalizations went into the operator before",)
    assert_same(model, result.model, 1e-5)
    given = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(str(model)).graph.initializer}
    made = onnx.load(str(result.model)).graph
    kernel = next(onnx.numpy_helper.to_array(t) for t in made.initializer if len(t.dims) == 4)
    factor = given["gamma1"] / np.sqrt(given["var1"] + 1e-3)
    np.testing.assert_allclose(kernel, given["k"] * factor[:, None, None, None], rtol=1e-6)


def test_two_batch_norms_in_a_row_both_go(tmp_path: Path, context: StepContext) -> None:
    model = models.save(
        tmp_path / "model.onnx",
        [node("Conv", "x k", "c"), batch_norm(1, "c", "n"), batch_norm(2, "n", "y")],
        [("x", FLOAT, ["batch", 2, 5, 5])],
        [("y", FLOAT, ["batch", 4, 3, 3])],
        weights(k=(4, 2, 3, 3)) | statistics(1, 4) | statistics(2, 4),
    )
    result = apply_step(model, Merge(), context)
    assert operators(result.model) == {"Conv": 1}
    assert_same(model, result.model, 1e-5)


def test_weights_that_a_caller_may_replace_are_not_constant(
    tmp_path: Path, context: StepContext
) -> None:
    """An initializer that is an input as well is only what the input is by default."""
    path = models.save(
        tmp_path / "model.onnx",
        [node("MatMul", "x w1", "h"), node("Identity", "w1", "i"), node("MatMul", "h i", "y")],
        [("x", FLOAT, ["batch", 4])],
        [("y", FLOAT, ["batch", 4])],
        weights(w1=(4, 4)),
    )
    model = onnx.load(str(path))
    model.graph.input.append(helper.make_tensor_value_info("w1", FLOAT, [4, 4]))
    onnx.save(model, str(path))
    assert not apply_step(path, Merge(), context).modified
    simplified = apply_step(path, Simplify(), context)
    assert [each.name for each in onnx.load(str(simplified.model)).graph.input] == ["x", "w1"]
    assert operators(simplified.model) == {"MatMul": 2}


def test_batch_norm_over_another_axis_than_the_product_s_stays(
    tmp_path: Path, context: StepContext
) -> None:
    """With three axes a BatchNormalization scales axis 1, a product gives axis 2."""
    model = models.save(
        tmp_path / "model.onnx",
        [node("MatMul", "x w", "p"), batch_norm(1, "p", "y")],
        [("x", FLOAT, ["batch", 4, 6])],
        [("y", FLOAT, ["batch", 4, 4])],
        weights(w=(6, 4)) | statistics(1, 4),
    )
    result = apply_step(model, Merge(), context)
    assert not result.modified
    assert result.notes == ("found nothing of batch_norm, branches, linear, parallel to merge",)


def test_two_products_become_one_only_where_that_saves(
    tmp_path: Path, context: StepContext
) -> None:
    """A wide middle is merged away; a narrow one (a low-rank factor) stays."""

    def chain(middle: int) -> Path:
        return models.save(
            tmp_path / f"{middle}.onnx",
            [
                node("MatMul", "x w1", "p"),
                node("Add", "p b1", "s"),
                node("Gemm", "s w2 b2", "y"),
            ],
            [("x", FLOAT, ["batch", 8])],
            [("y", FLOAT, ["batch", 8])],
            weights(w1=(8, middle), b1=(middle,), w2=(middle, 8), b2=(8,)),
        )

    wide = apply_step(chain(16), Merge(which=("linear",)), context)
    assert operators(wide.model) == {"Gemm": 1}
    assert_same(tmp_path / "16.onnx", wide.model, 1e-5)
    assert not apply_step(chain(3), Merge(which=("linear",)), context).modified


def test_a_pointwise_convolution_goes_into_the_one_before(
    tmp_path: Path, context: StepContext
) -> None:
    model = models.save(
        tmp_path / "model.onnx",
        [
            node("Conv", "x k1 b1", "c", pads=[1, 0, 1, 0], strides=[2, 1]),
            node("Conv", "c k2 b2", "d", strides=[1, 2]),
            node("Conv", "d k3", "y", pads=[1, 1, 1, 1]),
        ],
        [("x", FLOAT, ["batch", 3, 9, 9])],
        [("y", FLOAT, ["batch", 2, "h", "w"])],
        weights(k1=(6, 3, 3, 3), b1=(6,), k2=(4, 6, 1, 1), b2=(4,), k3=(2, 4, 1, 1)),
    )
    result = apply_step(model, Merge(which=("linear",)), context)
    assert count_operators(result.model, "Conv") == 2, "padded with zeros, the last cannot go"
    assert_same(model, result.model, 1e-5)


def test_queries_keys_and_values_become_one_product(tmp_path: Path, context: StepContext) -> None:
    model = models.save(
        tmp_path / "model.onnx",
        [
            node("MatMul", "x wq", "pq"),
            node("Add", "pq bq", "q"),
            node("MatMul", "x wk", "k"),
            node("MatMul", "x wv", "pv"),
            node("Add", "bv pv", "v"),
            node("Transpose", "k", "kt", perm=[0, 2, 1]),
            node("MatMul", "q kt", "s"),
            node("Softmax", "s", "a"),
            node("MatMul", "a v", "y"),
        ],
        [("x", FLOAT, ["batch", "n", 8])],
        [("y", FLOAT, ["batch", "n", 6]), ("k", FLOAT, ["batch", "n", 4])],
        weights(wq=(8, 4), bq=(4,), wk=(8, 4), wv=(8, 6), bv=(6,)),
    )
    result = apply_step(model, Merge(), context)
    assert operators(result.model)["MatMul"] == 3
    assert result.notes == ("2 products went into a wider one of the same input",)
    assert [value.name for value in onnx.load(str(result.model)).graph.output] == ["y", "k"]
    assert_same(model, result.model, 1e-5)


def test_products_of_a_weight_that_others_read_stay(tmp_path: Path, context: StepContext) -> None:
    """The wider weight would be stored besides the one that others read."""
    model = models.save(
        tmp_path / "model.onnx",
        [
            node("MatMul", "x w1", "p", name="first"),
            node("MatMul", "x w2", "q", name="second"),
            node("MatMul", "p w1", "y", name="third"),
            node("Identity", "q", "z"),
        ],
        [("x", FLOAT, ["batch", 4])],
        [("y", FLOAT, ["batch", 4]), ("z", FLOAT, ["batch", 4])],
        weights(w1=(4, 4), w2=(4, 4)),
    )
    result = apply_step(model, Merge(which=("parallel",)), context)
    assert (result.modified, result.notes) == (
        False,
        (
            "found nothing of parallel to merge",
            "left alone, for other nodes read their weights: first",
        ),
    )


def test_products_stay_where_split_takes_its_parts_otherwise(
    tmp_path: Path, context: StepContext
) -> None:
    """Before operator set 13, Split had its widths as an attribute."""
    model = models.save(
        tmp_path / "model.onnx",
        [node("MatMul", "x w1", "y"), node("MatMul", "x w2", "z")],
        [("x", FLOAT, ["batch", 4])],
        [("y", FLOAT, ["batch", 3]), ("z", FLOAT, ["batch", 2])],
        weights(w1=(4, 3), w2=(4, 2)),
        opset=12,
    )
    assert not apply_step(model, Merge(), context).modified


def rep_vgg(path: Path, *, stride: int = 1, group: int = 1) -> Path:
    """BN(conv3x3) + BN(conv1x1) + BN(x), and with stride 2 without the last."""
    strides = [stride, stride]
    last = [batch_norm(3, "x", "n3"), node("Add", "s n3", "y")]
    return models.save(
        path,
        [
            node("Conv", "x k3", "c3", pads=[1, 1, 1, 1], strides=strides, group=group),
            batch_norm(1, "c3", "n1"),
            node("Conv", "x k1", "c1", strides=strides, group=group),
            batch_norm(2, "c1", "n2"),
            node("Add", "n1 n2", "s" if stride == 1 else "y"),
            *(last if stride == 1 else []),
        ],
        [("x", FLOAT, ["batch", 4, 8, 8])],
        [("y", FLOAT, ["batch", 4, "h", "w"])],
        weights(k3=(4, 4 // group, 3, 3), k1=(4, 4 // group, 1, 1))
        | statistics(1, 4)
        | statistics(2, 4)
        | statistics(3, 4),
    )


@pytest.mark.parametrize(("stride", "group"), [(1, 1), (2, 1), (1, 2)])
def test_parallel_branches_become_one_convolution(
    tmp_path: Path, context: StepContext, stride: int, group: int
) -> None:
    model = rep_vgg(tmp_path / "model.onnx", stride=stride, group=group)
    result = apply_step(model, Merge(), context)
    assert operators(result.model) == {"Conv": 1}
    assert_same(model, result.model, 1e-5)


def test_a_residual_of_another_input_is_no_branch(tmp_path: Path, context: StepContext) -> None:
    model = models.save(
        tmp_path / "model.onnx",
        [
            node("Conv", "x k1", "c", pads=[1, 1, 1, 1]),
            node("Relu", "c", "r"),
            node("Conv", "r k2", "d", pads=[1, 1, 1, 1]),
            node("Add", "d x", "y"),
        ],
        [("x", FLOAT, ["batch", 4, 8, 8])],
        [("y", FLOAT, ["batch", 4, 8, 8])],
        weights(k1=(4, 4, 3, 3), k2=(4, 4, 3, 3)),
    )
    assert not apply_step(model, Merge(), context).modified


def test_a_merge_that_gives_other_answers_costs_only_itself(
    tmp_path: Path, context: StepContext
) -> None:
    """Two nearly equal large columns cancel out: rounded otherwise, the rest is another."""
    large = 1e4 * np.random.default_rng(3).random((4, 1))
    cancels = np.concatenate([large, large + 0.1], axis=1).astype(np.float32)
    model = models.save(
        tmp_path / "model.onnx",
        [
            node("MatMul", "x w1", "h"),
            node("MatMul", "h w2", "y"),
            node("MatMul", "z w3", "one"),
            node("MatMul", "z w4", "other"),
        ],
        [("x", FLOAT, ["batch", 4]), ("z", FLOAT, ["batch", 6])],
        [("y", FLOAT, ["batch", 1]), ("one", FLOAT, ["batch", 5]), ("other", FLOAT, ["batch", 5])],
        {
            "w1": cancels,
            "w2": np.array([[1], [-1]], np.float32),
            **weights(w3=(6, 5), w4=(6, 5)),
        },
    )
    result = apply_step(model, Merge(), context)
    assert result.modified
    left, merged = result.notes
    assert left.startswith("left as it was, linear: answers differ by")
    assert merged == "1 products went into a wider one of the same input"
    assert why_different(model, result.model, tolerance=1e-5, seed=1) == ""


def test_merge_refuses_what_gives_other_answers(
    tmp_path: Path, context: StepContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fold that forgets eps is found by the step itself."""
    model = normalised(tmp_path / "model.onnx")
    monkeypatch.setattr("optimizers.architecture.batch_norm.number", lambda *given: 0.3)
    result = apply_step(model, Merge(), context)
    assert (result.modified, result.model) == (False, model)
    assert result.notes[0].startswith("left as it was: answers differ by")


def test_the_proof_sees_a_wrong_weight_a_lost_output_and_a_crash(tmp_path: Path) -> None:
    good = models.linear(tmp_path / "good.onnx")
    assert why_different(good, good, tolerance=0.0, seed=0) == ""
    bad = models.linear(tmp_path / "bad.onnx", factor=1.001)
    assert "answers differ" in why_different(good, bad, tolerance=1e-5, seed=0)
    wide = models.linear(tmp_path / "wide.onnx", outputs=4)
    assert why_different(good, wide, tolerance=1e-5, seed=0) == "its inputs or outputs changed"
    long = models.with_positions(tmp_path / "long.onnx", most=4)
    assert "cannot be run" in why_different(long, long, tolerance=1e-5, seed=0)


def test_answers_that_are_no_numbers_prove_nothing(tmp_path: Path, context: StepContext) -> None:
    """Some of the numbers are negative, and the sum of all roots is no number."""
    model = models.save(
        tmp_path / "model.onnx",
        [
            node("Sqrt", "x", "root"),
            node("ReduceSum", "root", "sum"),
            node("MatMul", "sum w1", "h"),
            node("MatMul", "h w2", "y"),
        ],
        [("x", FLOAT, ["batch", 64])],
        [("y", FLOAT, [1, 1])],
        weights(w1=(1, 8), w2=(8, 1)),
    )
    reason = "the original gives no finite number on random inputs, so nothing is shown"
    assert why_different(model, model, tolerance=1e-5, seed=0) == reason
    result = apply_step(model, Merge(), context)
    assert (result.modified, result.notes) == (False, (f"left as it was: {reason}",))


def test_the_proof_tries_longer_inputs(tmp_path: Path) -> None:
    """An image halved four times and enlarged again has its size only if that was one of 16."""
    halved = [
        node("MaxPool", f"h{level}", f"h{level + 1}", kernel_shape=[2, 2], strides=[2, 2])
        for level in range(4)
    ]

    def network(path: Path, factor: float) -> Path:
        return models.save(
            path,
            [
                node("Mul", "x factor", "h0"),
                *halved,
                helper.make_node("Resize", ["h4", "", "scales"], ["large"]),
                node("Concat", "large x", "y", axis=1),
            ],
            [("x", FLOAT, ["batch", 1, "height", "width"])],
            [("y", FLOAT, ["batch", 2, "height", "width"])],
            {
                "factor": np.array(factor, np.float32),
                "scales": np.array([1, 1, 16, 16], np.float32),
            },
        )

    one, other = network(tmp_path / "one.onnx", 1.0), network(tmp_path / "other.onnx", 1.1)
    assert why_different(one, one, tolerance=0.0, seed=0) == ""
    assert "answers differ" in why_different(one, other, tolerance=1e-5, seed=0)


def test_shared_weights_are_not_changed_for_others(tmp_path: Path, context: StepContext) -> None:
    """One kernel, two convolutions, one of them normalised."""
    model = models.save(
        tmp_path / "model.onnx",
        [
            node("Conv", "x k", "c", pads=[1, 1, 1, 1]),
            batch_norm(1, "c", "n"),
            node("Relu", "n", "r"),
            node("Conv", "r k", "y", pads=[1, 1, 1, 1]),
        ],
        [("x", FLOAT, ["batch", 4, 8, 8])],
        [("y", FLOAT, ["batch", 4, 8, 8])],
        weights(k=(4, 4, 3, 3)) | statistics(1, 4),
    )
    result = apply_step(model, Merge(), context)
    assert result.modified
    assert_same(model, result.model, 1e-5)


def test_parameters_out_of_range_are_named() -> None:
    with pytest.raises(InvalidDocument, match=r"simplify.largest_constant must be at least 1"):
        Simplify(largest_constant=0)
    with pytest.raises(InvalidDocument, match=r"merge.which must name at least one of batch_norm"):
        Merge(which=())
    assert set(MERGINGS) == set(merge._MERGERS)
