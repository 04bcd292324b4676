"""Growing keeps every answer; dropping leaves out the blocks that change least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from optimizers.architecture.widen import _shares
from optimizers.contract.architecture import DropLayers, Grow
from optimizers.contract.errors import InvalidData, InvalidDocument
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.graph import count_operators
from optimizers.step import StepContext
from optimizers.techniques import apply_step
from tests.support import models
from tests.support.contexts import step_context

Array = NDArray[np.float32]
FLOAT = TensorProto.FLOAT


@pytest.fixture
def context(tmp_path: Path) -> StepContext:
    return step_context(tmp_path)


def run(model: Path, values: Array) -> Array:
    session = Session(model, SessionSpec(optimization="disabled"))
    [answer] = session.run({"x": values})
    session.close()
    return np.asarray(answer, dtype=np.float32)


def normal(*shape: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def weights_of(model: Path) -> dict[str, Array]:
    graph = onnx.load(str(model)).graph
    return {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}


def residual(path: Path, scales: Sequence[float], width: int = 8) -> Path:
    """x + scale f(x) a block, with f(x) = relu(x A) B, and a sum of cubes that is no block."""
    nodes, weights, value = [], {}, "x"
    for index, scale in enumerate(scales):
        weights[f"a{index}"] = normal(width, width, seed=2 * index)
        weights[f"b{index}"] = normal(width, width, seed=2 * index + 1) * np.float32(scale)
        nodes += [
            helper.make_node("MatMul", [value, f"a{index}"], [f"p{index}"]),
            helper.make_node("Relu", [f"p{index}"], [f"r{index}"]),
            helper.make_node("MatMul", [f"r{index}", f"b{index}"], [f"f{index}"]),
            helper.make_node("Add", [f"f{index}", value], [f"s{index}"], name=f"block{index}"),
        ]
        value = f"s{index}"
    nodes += [
        helper.make_node("Mul", [value, value], ["square"]),
        helper.make_node("Mul", ["square", value], ["cube"]),
        helper.make_node("Add", [value, "cube"], ["sum"], name="activation"),
        helper.make_node("MatMul", ["sum", "w"], ["product"]),
        helper.make_node("Add", ["product", "shift"], ["y"], name="bias"),
    ]
    weights |= {"w": normal(width, 3), "shift": normal(3)}
    shape: list[int | str] = ["batch", width]
    return models.save(path, nodes, [("x", FLOAT, shape)], [("y", FLOAT, ["batch", 3])], weights)


def calibrated(tmp_path: Path, context: StepContext, *shape: int) -> StepContext:
    np.savez(tmp_path / "calibration.npz", x=normal(*shape))
    return replace(context, data={"calibration": tmp_path / "calibration.npz"})


def importances(model: Path, values: Array) -> list[float]:
    """An independent computation of 1 - mean cosine, block by block."""
    given, x, found = weights_of(model), values.astype(np.float64), []
    for index in range(len(given) // 2 - 1):
        y = x + np.maximum(x @ given[f"a{index}"], 0) @ given[f"b{index}"]
        cosines = [a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in zip(x, y, strict=True)]
        found.append(1 - float(np.mean(cosines)))
        x = y
    return found


def test_the_least_important_block_goes(tmp_path: Path, context: StepContext) -> None:
    model = residual(tmp_path / "model.onnx", (0.3, 0.01, 0.5))
    context = calibrated(tmp_path, context, 20, 8)
    result = apply_step(model, DropLayers(), context)
    assert result.notes[0] == "left out 1 of 3 residual blocks: block1"
    wanted = importances(model, normal(20, 8))
    shown = ", ".join(f"block{index} {value:.4f}" for index, value in enumerate(wanted))
    assert result.notes[2] == f"importance (1 - cosine): {shown}"
    assert np.argmin(wanted) == 1
    assert sorted(weights_of(result.model)) == ["a0", "a2", "b0", "b2", "shift", "w"]
    without = residual(tmp_path / "without.onnx", (0.3, 0.0, 0.5))
    values = normal(5, 8, seed=9)
    np.testing.assert_allclose(run(result.model, values), run(without, values), rtol=1e-5)
    assert np.abs(run(result.model, values) - run(model, values)).max() > 1e-3


@pytest.mark.parametrize("blocks", [(0, 1), (1, 2), (0, 1, 2)])
def test_blocks_in_a_row_all_go(
    tmp_path: Path, context: StepContext, blocks: tuple[int, ...]
) -> None:
    """What goes into the second is what went into the first, not what came out of it."""
    scales = (0.3, 0.2, 0.5)
    model = residual(tmp_path / "model.onnx", scales)
    result = apply_step(model, DropLayers(blocks=blocks), context)
    assert count_operators(result.model, "Relu") == 3 - len(blocks)
    kept = tuple(0.0 if index in blocks else scale for index, scale in enumerate(scales))
    without = residual(tmp_path / "without.onnx", kept)
    values = normal(5, 8, seed=9)
    np.testing.assert_allclose(run(result.model, values), run(without, values), rtol=1e-5)


def test_a_block_at_the_end_leaves_the_output_s_name(tmp_path: Path, context: StepContext) -> None:
    model = models.save(
        tmp_path / "model.onnx",
        [
            helper.make_node("Conv", ["x", "k"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Add", ["x", "c"], ["y"], name="only"),
        ],
        [("x", FLOAT, ["batch", 3, 5, 5])],
        [("y", FLOAT, ["batch", 3, 5, 5])],
        {"k": normal(3, 3, 3, 3)},
    )
    result = apply_step(model, DropLayers(), calibrated(tmp_path, context, 9, 3, 5, 5))
    values = normal(4, 3, 5, 5)
    np.testing.assert_array_equal(run(result.model, values), values)


def test_an_add_that_stretches_its_input_is_no_block(tmp_path: Path, context: StepContext) -> None:
    model = models.save(
        tmp_path / "model.onnx",
        [
            helper.make_node("MatMul", ["x", "w"], ["p"]),
            helper.make_node("Add", ["x", "p"], ["y"]),
        ],
        [("x", FLOAT, ["batch", 1])],
        [("y", FLOAT, ["batch", 4])],
        {"w": normal(1, 4)},
    )
    result = apply_step(model, DropLayers(), calibrated(tmp_path, context, 9, 1))
    assert (result.modified, result.model) == (False, model)
    assert "no residual block" in result.notes[0]


def test_dropping_says_what_it_needs(tmp_path: Path, context: StepContext) -> None:
    model = residual(tmp_path / "model.onnx", (0.3, 0.2))
    with pytest.raises(InvalidData, match=r"name an .npz as data.calibration in hone.yaml"):
        apply_step(model, DropLayers(), context)
    with pytest.raises(InvalidDocument, match=r"names \[2\]; the model has 2 residual blocks"):
        apply_step(model, DropLayers(blocks=(2,)), context)
    with pytest.raises(InvalidDocument, match=r"drop_layers.count must be at least 1, got 0"):
        DropLayers(count=0)
    with pytest.raises(InvalidDocument, match=r"drop_layers.blocks must be different"):
        DropLayers(blocks=(1, 1))


def gemms(path: Path) -> Path:
    """Gemm with a transposed weight, Relu, Gemm, Relu, Gemm."""
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, Array] = {}
    value = "x"
    for index, (rows, columns) in enumerate([(6, 10), (10, 7), (7, 3)]):
        weights |= {f"w{index}": normal(columns, rows), f"b{index}": normal(columns)}
        result = "y" if index == 2 else f"s{index}"
        given = [value, f"w{index}", f"b{index}"]
        nodes.append(helper.make_node("Gemm", given, [result], name=f"gemm{index}", transB=1))
        if index < 2:
            value = f"h{index}"
            nodes.append(helper.make_node("Relu", [result], [value]))
    return models.save(
        path, nodes, [("x", FLOAT, ["batch", 6])], [("y", FLOAT, ["batch", 3])], weights
    )


def convolutions(path: Path) -> Path:
    return models.save(
        path,
        [
            helper.make_node("Conv", ["x", "k0", "c0"], ["s0"], name="conv0", strides=[2, 1]),
            helper.make_node("Relu", ["s0"], ["h0"]),
            helper.make_node("MaxPool", ["h0"], ["m0"], kernel_shape=[2, 2]),
            helper.make_node("Conv", ["m0", "k1"], ["s1"], name="conv1", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["s1"], ["y"]),
        ],
        [("x", FLOAT, ["batch", 2, 11, 9])],
        [("y", FLOAT, ["batch", 5, "h", "w"])],
        {"k0": normal(6, 2, 3, 3), "c0": normal(6), "k1": normal(5, 6, 3, 3)},
    )


BUILD = {"gemms": gemms, "convolutions": convolutions, "perceptron": models.perceptron}
SHAPES = {"gemms": (4, 6), "convolutions": (4, 2, 11, 9), "perceptron": (4, 16)}


@pytest.mark.parametrize("name", BUILD)
@pytest.mark.parametrize(
    "step",
    [Grow(), Grow(wider=3, noise=0.3), Grow(wider=1, deeper=1), Grow(wider=1.3, deeper=1)],
    ids=str,
)
def test_a_grown_model_gives_the_same_answers(
    tmp_path: Path, context: StepContext, step: Grow, name: str
) -> None:
    model = BUILD[name](tmp_path / "model.onnx")
    result = apply_step(model, step, context)
    assert result.modified, result.notes
    assert result.model.stat().st_size > model.stat().st_size
    values = normal(*SHAPES[name])
    wanted = run(model, values)
    assert np.abs(run(result.model, values) - wanted).max() <= 1e-5 * max(1, np.abs(wanted).max())


def test_units_are_copied_and_shared(tmp_path: Path, context: StepContext) -> None:
    model = gemms(tmp_path / "model.onnx")
    grown = apply_step(model, Grow(wider=1.5), context).model
    made, nodes = weights_of(grown), onnx.load(str(grown)).graph.node
    first, second, _ = (made[node.input[1]] for node in nodes if node.op_type == "Gemm")
    assert (first.shape, second.shape) == ((6, 15), (15, 11))
    given = weights_of(model)["w0"].T
    for column in first[:, 10:].T:
        assert any(np.array_equal(column, unit) for unit in given.T)
    for unit in given.T:
        copies = [j for j in range(15) if np.array_equal(first[:, j], unit)]
        assert np.ptp(second[copies], axis=0).max() == 0, "equal shares without noise"
    again = weights_of(apply_step(model, Grow(wider=1.5), context).model)
    assert all(np.array_equal(made[name], again[name]) for name in made)


def test_noise_tells_copies_apart_and_keeps_their_sum() -> None:
    units = np.array([0, 1, 2, 0, 0, 1])
    shares = _shares(units, 0.2, np.random.default_rng(0))
    np.testing.assert_allclose(np.bincount(units, shares), 1)
    assert len(set(shares[units == 0])) == 3
    assert shares[2] == 1


def test_growing_is_refused_where_answers_change(
    tmp_path: Path, context: StepContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted fault: copies that each count in full."""
    monkeypatch.setattr(
        "optimizers.architecture.widen._shares", lambda units, *given: np.ones(len(units))
    )
    model = gemms(tmp_path / "model.onnx")
    result = apply_step(model, Grow(), context)
    assert (result.modified, result.model) == (False, model)
    assert result.notes[0].startswith("left as it was: answers differ by")


def test_what_is_read_twice_does_not_grow(tmp_path: Path, context: StepContext) -> None:
    """A hidden value that something else reads as well has to keep its width."""
    model = models.save(
        tmp_path / "model.onnx",
        [
            helper.make_node("MatMul", ["x", "w1"], ["p"], name="first"),
            helper.make_node("Relu", ["p"], ["h"]),
            helper.make_node("MatMul", ["h", "w2"], ["q"], name="second"),
            helper.make_node("ReduceSum", ["h"], ["sum"]),
            helper.make_node("Add", ["q", "sum"], ["y"]),
        ],
        [("x", FLOAT, ["batch", 4])],
        [("y", FLOAT, ["batch", 2])],
        {"w1": normal(4, 5), "w2": normal(5, 2)},
    )
    result = apply_step(model, Grow(), context)
    assert (result.modified, result.notes[0]) == (
        False,
        "no layer is followed by a Relu that fits",
    )


def test_growing_starts_at_the_input(tmp_path: Path, context: StepContext) -> None:
    """Convolutions come before the products that read them."""
    model = models.save(
        tmp_path / "model.onnx",
        [
            helper.make_node("Conv", ["x", "k1"], ["c1"], name="conv1"),
            helper.make_node("Relu", ["c1"], ["r1"]),
            helper.make_node("Conv", ["r1", "k2"], ["c2"], name="conv2"),
            helper.make_node("Flatten", ["c2"], ["f"]),
            helper.make_node("Gemm", ["f", "w1"], ["g1"], name="gemm1"),
            helper.make_node("Relu", ["g1"], ["r2"]),
            helper.make_node("Gemm", ["r2", "w2"], ["y"], name="gemm2"),
        ],
        [("x", FLOAT, ["batch", 2, 5, 5])],
        [("y", FLOAT, ["batch", 3])],
        {
            "k1": normal(4, 2, 3, 3),
            "k2": normal(4, 4, 3, 3, seed=2),
            "w1": normal(4, 6, seed=3),
            "w2": normal(6, 3, seed=4),
        },
    )
    result = apply_step(model, Grow(wider=1.5, deeper=1), context)
    assert result.notes == (
        "conv1: 4 units became 6",
        "gemm1: 6 units became 9",
        "put a layer after conv1",
    )
    values = normal(3, 2, 5, 5, seed=5)
    np.testing.assert_allclose(run(result.model, values), run(model, values), rtol=1e-4, atol=1e-4)


def test_growing_says_what_it_left(tmp_path: Path, context: StepContext) -> None:
    model = gemms(tmp_path / "model.onnx")
    result = apply_step(model, Grow(deeper=5, exclude=("gemm1",)), context)
    assert result.notes == (
        "gemm0: 10 units became 15",
        "put a layer after gemm0",
        "put a layer after gemm1",
        "left alone as asked: gemm1",
        "no Relu for 3 of 5 layers to come after",
    )
    with pytest.raises(InvalidDocument, match="exclude names gemm2"):
        apply_step(model, Grow(exclude=("gemm2",)), context)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Grow(wider=0.5), "grow.wider must be at least 1, got 0.5"),
        (lambda: Grow(deeper=-1), "grow.deeper must be at least 0, got -1"),
        (lambda: Grow(noise=1.0), r"grow.noise must be in \[0, 1\), got 1.0"),
        (lambda: Grow(wider=1), "grow.wider must be above 1 where grow.deeper is 0"),
    ],
)
def test_parameters_out_of_range_are_named(make: type[Grow], text: str) -> None:
    with pytest.raises(InvalidDocument, match=text):
        make()
