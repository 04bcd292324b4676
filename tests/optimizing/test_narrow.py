"""Weights in 8, 4 or 2 bits: what is stored, what it stands for, what the runtime makes of it."""

from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from optimizers.contract.errors import InvalidData, InvalidDocument
from optimizers.contract.quantization import WeightsNbits
from optimizers.graph import count_operators
from optimizers.quantization.gptq import rounded_for
from optimizers.quantization.nbits import pack, unpack
from optimizers.step import StepContext
from optimizers.techniques import apply_step
from tests.support import models
from tests.support.contexts import step_context
from tests.support.narrow import (
    INT8_ACTIVATIONS,
    answers,
    at_level,
    normal,
    product,
    stored,
)

Floats = NDArray[np.float32]


@pytest.fixture
def context(tmp_path: Path) -> StepContext:
    return step_context(tmp_path)


def rounded(weight: Floats, bits: int, block_size: int, *, symmetric: bool) -> Floats:
    """Round to nearest, one block after the other, straight from the formula."""
    found, most, middle = np.empty_like(weight), 2**bits - 1, 2 ** (bits - 1)
    for column in range(weight.shape[1]):
        for start in range(0, len(weight), block_size):
            block = weight[start : start + block_size, column]
            if symmetric:
                scale, zero = block[np.abs(block).argmax()] / -middle, middle
            else:
                low, high = min(block.min(), 0), max(block.max(), 0)
                scale = (high - low) / most
                zero = np.round(-low / scale)
            code = np.clip(np.round(block / scale + zero), 0, most)
            found[start : start + block_size, column] = (code - zero) * scale
    return found


def differing(one: Floats, other: Floats) -> float:
    """The share of weights that are not the same."""
    return float((np.abs(one - other) > 1e-5).mean())


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_packing_is_undone_by_unpacking(bits: int) -> None:
    codes = np.random.default_rng(0).integers(0, 2**bits, (3, 5, 16)).astype(np.uint8)
    packed = pack(codes, bits)
    assert packed.shape == (3, 5, 16 * bits // 8)
    assert np.array_equal(unpack(packed, bits), codes)
    first = int(packed[0, 0, 0])
    assert first & (2**bits - 1) == codes[0, 0, 0], "the first code lies in the lowest bits"


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("block_size", [16, 32, 128])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_what_is_stored_is_the_weight_rounded_to_nearest(
    tmp_path: Path, context: StepContext, bits: int, block_size: int, symmetric: bool
) -> None:
    """Some versions of the library save weights that are not those they computed."""
    weight, x = normal(160, 24), normal(5, 160, seed=1)
    model = product(tmp_path / "model.onnx", weight)
    step = WeightsNbits(bits=bits, block_size=block_size, symmetric=symmetric)
    result = apply_step(model, step, context)
    [narrow] = stored(result.model)
    wanted = rounded(weight, bits, block_size, symmetric=symmetric)
    assert differing(narrow.widened(), wanted) < 0.001, "but for halves, rounded up or down"
    damaged = replace(narrow, codes=np.roll(narrow.codes, 1, axis=1))
    assert differing(damaged.widened(), wanted) > 0.5, "a wrong order of blocks is seen"
    products = x @ narrow.widened()
    most = np.abs(products).max()
    assert np.abs(answers(at_level(result.model, 0), x=x) - products).max() < 1e-5 * most
    assert np.abs(answers(result.model, x=x) - products).max() < INT8_ACTIVATIONS * most
    assert np.abs(answers(result.model, x=x) - x @ damaged.widened()).max() > 0.1 * most


def test_every_product_computes_with_int8_and_says_so(tmp_path: Path, context: StepContext) -> None:
    """Without accuracy_level 4 products are several times slower, whatever the algorithm."""
    model = models.perceptron(tmp_path / "model.onnx", sizes=(64, 64, 64))
    for step in (WeightsNbits(), WeightsNbits(bits=8), WeightsNbits(algorithm="hqq")):
        result = apply_step(model, step, context)
        levels = [
            attribute.i
            for node in onnx.load(str(result.model)).graph.node
            for attribute in node.attribute
            if attribute.name == "accuracy_level"
        ]
        assert levels == [4, 4]


@pytest.mark.parametrize(("transposed", "alpha"), [(0, 1.0), (1, 1.0), (0, 0.5), (1, -2.0)])
def test_a_gemm_is_narrowed_as_well(
    tmp_path: Path, context: StepContext, transposed: int, alpha: float
) -> None:
    """The library's quantiser skips it and says nothing."""
    weight, x = normal(64, 40), normal(5, 40 if transposed else 64, seed=1)
    model = product(tmp_path / "model.onnx", weight, transB=transposed, alpha=alpha)
    result = apply_step(model, WeightsNbits(bits=8), context)
    assert count_operators(result.model, "MatMulNBits") == 1
    assert count_operators(result.model, "Gemm", "MatMul") == 0
    wanted = answers(model, x=x)
    assert np.abs(answers(result.model, x=x) - wanted).max() < 0.02 * np.abs(wanted).max()


def test_what_cannot_be_narrowed_is_named_with_the_reason(
    tmp_path: Path, context: StepContext
) -> None:
    shape: list[int | str] = [64, 64]
    model = models.save(
        tmp_path / "model.onnx",
        [
            helper.make_node("MatMul", ["x", "w"], ["a"], name="fits"),
            helper.make_node("MatMul", ["x", "a"], ["b"], name="between_values"),
            helper.make_node("MatMul", ["b", "stack"], ["c"], name="three_dimensions"),
            helper.make_node("Gemm", ["a", "w"], ["d"], name="turned", transA=1),
            helper.make_node("MatMul", ["d", "narrow"], ["e"], name="tiny"),
            helper.make_node("MatMul", ["e", "short"], ["f"], name="short"),
            helper.make_node("Add", ["c", "f"], ["y"]),
        ],
        [("x", onnx.TensorProto.FLOAT, shape)],
        [("y", onnx.TensorProto.FLOAT, [2, 64, 64])],
        {
            "w": normal(64, 64),
            "stack": normal(2, 64, 64),
            "narrow": normal(64, 2),
            "short": normal(2, 64),
        },
    )
    result = apply_step(model, WeightsNbits(bits=8), context)
    assert stored(result.model)[0].rows == 64
    assert result.notes[1:5] == (
        "left between_values alone: its weight is no constant",
        "left three_dimensions alone: its weight has 3 dimensions, not 2",
        "left turned alone: its input is transposed",
        "left short alone: its weight would not become smaller",
    )
    assert result.notes[0].startswith("narrowed 2 matrix products")


def test_products_that_were_narrow_before_are_not_counted(
    tmp_path: Path, context: StepContext
) -> None:
    model = models.perceptron(tmp_path / "model.onnx", sizes=(64, 256, 256, 64))
    first = apply_step(model, WeightsNbits(exclude=("matmul1", "matmul2")), context)
    assert first.notes[0].startswith("narrowed 1 matrix products")
    kept = first.model.rename(tmp_path / "first.onnx")
    second = apply_step(kept, WeightsNbits(), context)
    assert len(stored(second.model)) == 3
    assert second.notes[0].startswith("narrowed 2 matrix products")


def test_nothing_to_narrow_changes_nothing(tmp_path: Path, context: StepContext) -> None:
    result = apply_step(models.two_inputs(tmp_path / "model.onnx"), WeightsNbits(), context)
    assert (result.modified, result.notes) == (
        False,
        ("the model has no matrix product (MatMul, Gemm)",),
    )
    tiny = apply_step(models.linear(tmp_path / "tiny.onnx"), WeightsNbits(), context)
    assert not tiny.modified
    assert "would not become smaller" in tiny.notes[0]


def test_the_file_shrinks_by_what_the_notes_say(tmp_path: Path, context: StepContext) -> None:
    model = models.perceptron(tmp_path / "model.onnx", sizes=(256, 256, 256))
    sizes = {}
    for bits in (8, 4, 2):
        result = apply_step(model, WeightsNbits(bits=bits), context)
        sizes[bits] = model.stat().st_size / result.model.stat().st_size
    # 32 bits against `bits` and a scale of 32 bits for every 32 weights, and a few biases.
    assert sizes == pytest.approx({8: 32 / 9, 4: 32 / 5, 2: 32 / 3}, rel=0.1)


def shared(path: Path) -> Path:
    """logits [batch, n, 64] = table[tokens] W W: one weight read by two products."""
    return models.save(
        path,
        [
            helper.make_node("Gather", ["table", "tokens"], ["h"], name="embed"),
            helper.make_node("MatMul", ["h", "w"], ["one"], name="one"),
            helper.make_node("MatMul", ["one", "w"], ["logits"], name="other"),
        ],
        [("tokens", onnx.TensorProto.INT64, ["batch", "n"])],
        [("logits", onnx.TensorProto.FLOAT, ["batch", "n", 64])],
        {"table": normal(100, 64), "w": normal(64, 64, seed=1)},
    )


def test_a_shared_weight_is_stored_once(tmp_path: Path, context: StepContext) -> None:
    """The library stores it twice under one name, which makes a model that does not open."""
    model = shared(tmp_path / "model.onnx")
    tokens = np.arange(12).reshape(3, 4)
    result = apply_step(model, WeightsNbits(bits=8), context)
    assert [node.op_type for node in onnx.load(str(result.model)).graph.node].count(
        "MatMulNBits"
    ) == 2
    assert len(onnx.load(str(result.model)).graph.initializer) == 3, "table, codes and scales"
    one, other = answers(model, tokens=tokens), answers(result.model, tokens=tokens)
    assert np.abs(one - other).max() < 0.02 * np.abs(one).max()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_an_embedding_is_narrowed_when_asked(
    tmp_path: Path, context: StepContext, bits: int, symmetric: bool
) -> None:
    model = shared(tmp_path / "model.onnx")
    loaded = onnx.load(str(model))
    del loaded.graph.node[1:]
    loaded.graph.node[0].output[0] = "logits"
    onnx.save(loaded, str(model))
    tokens = np.arange(12).reshape(3, 4)
    assert not apply_step(model, WeightsNbits(bits=bits), context).modified
    step = WeightsNbits(bits=bits, symmetric=symmetric, embeddings=True)
    result = apply_step(model, step, context)
    assert result.notes[0].startswith("narrowed 0 matrix products and 1 embeddings")
    wanted = rounded(normal(100, 64).T, bits, 32, symmetric=symmetric).T[tokens]
    assert np.abs(answers(result.model, tokens=tokens) - wanted).max() < 1e-5
    assert result.model.stat().st_size < model.stat().st_size / 3
    excluded = apply_step(model, replace(step, exclude=("embed",)), context)
    assert not excluded.modified


def test_hqq_leaves_a_smaller_error_than_rounding(tmp_path: Path, context: StepContext) -> None:
    weight, x = normal(100, 24), normal(5, 100, seed=1)
    model = product(tmp_path / "model.onnx", weight)
    result = apply_step(model, WeightsNbits(algorithm="hqq"), context)
    [narrow] = stored(result.model)
    plain = rounded(weight, 4, 32, symmetric=False)
    assert np.abs(narrow.widened() - weight).mean() < np.abs(plain - weight).mean()
    wanted = x @ narrow.widened()
    assert np.abs(answers(result.model, x=x) - wanted).max() < 1e-5 * np.abs(wanted).max()
    assert "many times longer than in floating point" in result.notes[-1]


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_answers_do_not_depend_on_their_neighbours(
    tmp_path: Path, context: StepContext, bits: int
) -> None:
    """Every row of activations is scaled by itself, unlike with dynamic_int8."""
    model = models.perceptron(tmp_path / "model.onnx", sizes=(64, 64, 64))
    result = apply_step(model, WeightsNbits(bits=bits), context)
    x = normal(9, 64) * np.logspace(-2, 2, 9, dtype=np.float32)[:, None]
    together = answers(result.model, x=x)
    alone = np.concatenate([answers(result.model, x=row[None]) for row in x])
    assert np.abs(together - alone).max() <= 1e-6 * np.abs(together).max()


def correlated(items: int, width: int, *, seed: int) -> Floats:
    """Inputs in which a quarter as many causes are mixed, as those of inner layers are."""
    mixing = normal(width // 4, width, seed=7)
    return normal(items, width // 4, seed=seed) @ mixing + 0.1 * normal(items, width, seed=seed + 1)


@pytest.mark.parametrize("operator", ["MatMul", "Gemm"])
@pytest.mark.parametrize("bits", [4, 2])
def test_gptq_answers_better_than_rounding_on_items_it_did_not_see(
    tmp_path: Path, context: StepContext, bits: int, operator: str
) -> None:
    weight, x = normal(72, 48), correlated(300, 72, seed=20)
    extra = {"transB": 0} if operator == "Gemm" else {}
    model = product(tmp_path / "model.onnx", weight, **extra)
    np.savez(tmp_path / "calibration.npz", x=correlated(400, 72, seed=10))
    context = replace(context, data={"calibration": tmp_path / "calibration.npz"})
    off = {}
    for algorithm in ("rtn", "gptq"):
        step = WeightsNbits(bits=bits, algorithm=algorithm, samples=400)
        [narrow] = stored(apply_step(model, step, context).model)
        off[algorithm] = np.square(x @ narrow.widened() - x @ weight).mean()
    assert off["gptq"] < 0.6 * off["rtn"]
    np.savez(tmp_path / "calibration.npz", x=normal(400, 72, seed=10))
    step = WeightsNbits(bits=bits, algorithm="gptq", samples=400)
    [misled] = stored(apply_step(model, step, context).model)
    assert np.square(x @ misled.widened() - x @ weight).mean() > 0.6 * off["rtn"], "data matters"


def test_gptq_of_independent_inputs_is_rounding_to_nearest() -> None:
    weight = normal(72, 24)
    narrow = rounded_for(weight, np.eye(72), 4, 32)
    assert differing(narrow.widened(), rounded(weight, 4, 32, symmetric=True)) == 0
    unseen = rounded_for(weight, np.zeros((72, 72)), 4, 32)
    assert np.array_equal(unseen.codes, narrow.codes), "inputs that were always 0 do no harm"


def test_gptq_looks_at_inner_values(tmp_path: Path, context: StepContext) -> None:
    model = models.perceptron(tmp_path / "model.onnx", sizes=(64, 96, 96, 64))
    np.savez(tmp_path / "calibration.npz", x=correlated(200, 64, seed=10))
    context = replace(context, data={"calibration": tmp_path / "calibration.npz"})
    x = correlated(200, 64, seed=20)
    wanted, off = answers(model, x=x), {}
    for algorithm in ("rtn", "gptq"):
        result = apply_step(model, WeightsNbits(algorithm=algorithm, samples=200), context)
        off[algorithm] = np.square(answers(result.model, x=x) - wanted).mean()
    assert off["gptq"] < 0.8 * off["rtn"]


def test_gptq_asks_for_calibration_data(tmp_path: Path, context: StepContext) -> None:
    model = product(tmp_path / "model.onnx", normal(64, 64))
    with pytest.raises(InvalidData, match=r"name an .npz as data.calibration in hone.yaml"):
        apply_step(model, WeightsNbits(algorithm="gptq"), context)


def test_blocks_of_sixteen_are_told_to_be_slow(tmp_path: Path, context: StepContext) -> None:
    model = product(tmp_path / "model.onnx", normal(64, 64))
    assert "slow" in apply_step(model, WeightsNbits(bits=2, block_size=16), context).notes[-1]
    assert "slow" not in apply_step(model, WeightsNbits(bits=2), context).notes[-1]


@pytest.mark.parametrize("bits", [1, 3, 5, 6, 16])
def test_bits_without_a_kernel_are_refused_when_written(bits: int) -> None:
    with pytest.raises(InvalidDocument, match=f"bits must be 2, 4 or 8, got {bits}"):
        WeightsNbits(bits=bits)


def test_what_does_not_go_together_is_refused_when_written() -> None:
    with pytest.raises(InvalidDocument, match="block_size must be one of 16, 32, 64, 128, 256"):
        WeightsNbits(block_size=48)
    with pytest.raises(InvalidDocument, match="bits must be 4 with hqq, got 2"):
        WeightsNbits(algorithm="hqq", bits=2)
    with pytest.raises(InvalidDocument, match="embeddings must be false with hqq"):
        WeightsNbits(algorithm="hqq", embeddings=True)
    with pytest.raises(InvalidDocument, match="symmetric must be true with gptq"):
        WeightsNbits(algorithm="gptq", symmetric=False)
    with pytest.raises(InvalidDocument, match="samples must be at least 1, got 0"):
        WeightsNbits(samples=0)


def test_excluded_products_stay_and_unknown_ones_are_refused(
    tmp_path: Path, context: StepContext
) -> None:
    model = models.perceptron(tmp_path / "model.onnx", sizes=(64, 64, 64, 64))
    result = apply_step(model, WeightsNbits(exclude=("matmul1",)), context)
    assert count_operators(result.model, "MatMulNBits") == 2
    assert "left alone as asked: matmul1" in result.notes
    with pytest.raises(InvalidDocument, match=r"weights_nbits.exclude names matmul9"):
        apply_step(model, WeightsNbits(exclude=("matmul9",)), context)


def test_narrowing_twice_gives_the_same_bytes(tmp_path: Path, context: StepContext) -> None:
    model = models.perceptron(tmp_path / "model.onnx", sizes=(64, 64, 64))
    for step in (WeightsNbits(), WeightsNbits(algorithm="hqq")):
        made = [apply_step(model, step, context).model.read_bytes() for _ in range(2)]
        assert made[0] == made[1]


def test_the_library_does_not_set_up_our_logs() -> None:
    """Importing it gives the root logger a handler and the level INFO."""
    code = (
        "import logging, numpy\n"
        "from optimizers.contract.quantization import WeightsNbits\n"
        "from optimizers.quantization.weights_nbits import half_quadratic\n"
        "half_quadratic(numpy.ones((32, 2), numpy.float32), WeightsNbits(algorithm='hqq'))\n"
        "root = logging.getLogger()\n"
        "print(root.handlers, root.level)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"[] {logging.WARNING}\n"
