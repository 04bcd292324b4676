"""Training with narrow weights: what the forward pass sees, what is stored, and what it wins."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from optimizers.contract.errors import InvalidData, InvalidDocument, NotSupported
from optimizers.contract.profile import Task
from optimizers.contract.quantization import Binarize, Ternarize, WeightsNbits
from optimizers.contract.training import Training
from optimizers.graph import count_operators, load_named
from optimizers.quantization.binarize import binary
from optimizers.quantization.coding import Coder, coded, straight_through
from optimizers.quantization.latent import with_latent_weights
from optimizers.quantization.narrowing import Narrowing
from optimizers.quantization.nearest import nearest
from optimizers.quantization.ternarize import ternary
from optimizers.step import StepContext
from optimizers.techniques import apply_step
from optimizers.trainable import read_trainable
from tests.support import models
from tests.support.contexts import step_context
from tests.support.digits import agreement, train_original, training_context
from tests.support.digits import answers as answers_to_digits
from tests.support.narrow import INT8_ACTIVATIONS, answers, at_level, normal, stored

Floats = NDArray[np.float32]
Kind = Binarize | Ternarize | WeightsNbits

LEARNING = Training(
    epochs=6, batch_size=32, learning_rate=1e-3, schedule="cosine", warm_up=0.1, clip_norm=1.0
)
KINDS: list[Kind] = [
    Binarize(training=LEARNING),
    Ternarize(training=LEARNING),
    WeightsNbits(bits=2, training=LEARNING),
    WeightsNbits(bits=2, symmetric=False, training=LEARNING),
]
CODERS: dict[str, Coder] = {
    "binary": partial(binary, block_size=32),
    "ternary": partial(ternary, block_size=32),
    "two bits": partial(nearest, bits=2, block_size=32, symmetric=True),
    "four bits, zero points": partial(nearest, bits=4, block_size=32, symmetric=False),
    "eight bits": partial(nearest, bits=8, block_size=64, symmetric=True),
}


@pytest.fixture
def taught(tmp_path: Path) -> StepContext:
    context = training_context(tmp_path)
    train_original(context)
    return context


def untrained(step: Kind, context: StepContext, name: str = "untrained") -> Path:
    work = context.work_directory.parent / name
    work.mkdir()
    plain = replace(step, training=None)
    return apply_step(context.original, plain, replace(context, work_directory=work)).model


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("rows", [128, 75])
def test_what_trains_is_what_is_stored_and_its_gradient_is_the_weights(
    coder: str, rows: int
) -> None:
    """The numbers of the forward pass against numpy's reading of the packed codes."""
    weight = torch.from_numpy(normal(24, rows)).requires_grad_()
    code = CODERS[coder]
    seen = straight_through(weight, code)
    kept = code(weight.detach()).stored()
    assert np.array_equal(seen.detach().numpy(), kept.widened().T)
    assert not np.array_equal(kept.widened().T, weight.detach().numpy())
    incoming = torch.from_numpy(normal(24, rows, seed=1))
    torch.autograd.backward((seen * incoming).sum())
    assert weight.grad is not None
    assert torch.equal(weight.grad, incoming)


@pytest.mark.parametrize("step", KINDS, ids=str)
def test_training_wins_back_most_of_what_few_values_lost(taught: StepContext, step: Kind) -> None:
    lost = agreement(untrained(step, taught), taught.original)
    result = apply_step(taught.original, step, taught)
    assert result.modified
    assert count_operators(result.model, "MatMulNBits") == 2
    assert any(note.startswith("trained 6 epochs") for note in result.notes)
    won = agreement(result.model, taught.original)
    assert 1 - won < 0.5 * (1 - lost), f"{lost:.3f} before, {won:.3f} after"
    assert result.model.stat().st_size < taught.original.stat().st_size / 8


@pytest.mark.parametrize("step", KINDS, ids=str)
def test_the_file_answers_as_the_graph_that_trained(taught: StepContext, step: Kind) -> None:
    """By numpy, from the floats that training left; int8 activations are the only difference."""
    result = apply_step(taught.original, step, taught)
    left = taught.work_directory / "training" / result.model.name
    graph = read_trainable(left)
    code = _coder(step)
    narrow = {
        name: straight_through(graph.weight(name).detach().T, code).T
        for name in graph.weight_names()
        if name.endswith("_latent")
    }
    assert len(narrow) == 2
    images = np.load(taught.data["train"])["x"][:64]
    with torch.no_grad():
        [wanted] = graph({"x": torch.from_numpy(images), **narrow}).values()
        [floats] = graph({"x": torch.from_numpy(images)}).values()
    most = float(wanted.abs().max())
    by_floats = answers(at_level(result.model, 0), x=images)
    assert np.abs(by_floats - wanted.numpy()).max() < 1e-5 * most
    assert np.abs(answers(result.model, x=images) - wanted.numpy()).max() < INT8_ACTIVATIONS * most
    assert np.abs(by_floats - floats.numpy()).max() > 1e-2 * most, "the floats themselves answer so"


def test_all_the_rest_of_the_model_trains_as_well(taught: StepContext) -> None:
    step = Binarize(include=("matmul0",), training=LEARNING)
    result = apply_step(taught.original, step, taught)
    before, after = (
        {one.name: numpy_helper.to_array(one) for one in onnx.load(str(path)).graph.initializer}
        for path in (taught.original, result.model)
    )
    assert count_operators(result.model, "MatMulNBits") == 1
    for name in ("b0", "w1", "b1"):
        assert np.abs(before[name] - after[name]).max() > 1e-4, name


def test_what_does_not_get_better_is_stored_untrained(taught: StepContext) -> None:
    hopeless = Training(epochs=1, batch_size=32, learning_rate=100.0, optimizer="sgd", momentum=0.0)
    step = WeightsNbits(bits=8, training=replace(hopeless, clip_norm=1e3))
    plain = untrained(step, taught)
    result = apply_step(taught.original, step, taught)
    assert any("it did not fall, so nothing was kept" in note for note in result.notes)
    assert np.array_equal(answers_to_digits(result.model), answers_to_digits(plain))


def test_training_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    encoder(tmp_path / "model.onnx")
    context, step = sentences(tmp_path, items=64), Ternarize(training=LEARNING)
    made: list[bytes] = []
    for seed in (0, 0, 1):
        work = tmp_path / f"turn{len(made)}"
        work.mkdir()
        turn = replace(context, work_directory=work, seed=seed)
        made.append(apply_step(tmp_path / "model.onnx", step, turn).model.read_bytes())
    assert made[0] == made[1] != made[2]


def test_a_model_without_products_is_left_as_it_is(tmp_path: Path) -> None:
    model = models.two_inputs(tmp_path / "model.onnx")
    for step in KINDS:
        result = apply_step(model, step, step_context(tmp_path))
        assert (result.model, result.modified) == (model, False)


def encoder(path: Path) -> Path:
    """embedding [batch, 64] = from a table that is read by the last layer too."""
    return models.save(
        path,
        [
            helper.make_node("Gather", ["table", "tokens"], ["h"], name="embed"),
            helper.make_node("ReduceMean", ["h", "axes"], ["m"], keepdims=0),
            helper.make_node("Gemm", ["m", "u", "b"], ["a"], name="up", alpha=0.5),
            helper.make_node("Relu", ["a"], ["r"]),
            helper.make_node("MatMul", ["r", "v"], ["d"], name="down"),
            helper.make_node("Gemm", ["d", "table"], ["y"], name="back", transB=1),
        ],
        [("tokens", onnx.TensorProto.INT64, ["batch", "n"])],
        [("y", onnx.TensorProto.FLOAT, ["batch", 96])],
        {
            "table": normal(96, 64),
            "u": normal(64, 128, seed=1),
            "b": normal(128, seed=2),
            "v": normal(128, 64, seed=3),
            "axes": np.array([1], np.int64),
        },
    )


def sentences(tmp_path: Path, items: int = 600) -> StepContext:
    tokens = np.random.default_rng(0).integers(0, 96, (items, 7))
    np.savez(tmp_path / "train.npz", tokens=tokens)
    return step_context(tmp_path, task=Task.EMBEDDING, data={"train": tmp_path / "train.npz"})


@pytest.mark.parametrize("step", KINDS, ids=str)
def test_the_loss_that_training_watched_is_that_of_the_files(tmp_path: Path, step: Kind) -> None:
    """So few items that all are watched: before and after, computed from what was written."""
    model, context = encoder(tmp_path / "model.onnx"), sentences(tmp_path, items=16)
    step = replace(step, training=replace(LEARNING, learning_rate=1e-2))
    if isinstance(step, WeightsNbits):
        step = replace(step, embeddings=True)
    tokens = np.load(context.data["train"])["tokens"]
    wanted, plain = answers(model, tokens=tokens), untrained(step, context)
    result = apply_step(model, step, context)
    [note] = [note for note in result.notes if note.startswith("trained 6 epochs")]
    found = re.search(r"loss of 16 held-out items ([\d.e-]+) before, ([\d.e-]+) after", note)
    assert found is not None
    before, after = (
        _distance(answers(at_level(path, 0), tokens=tokens), wanted)
        for path in (plain, result.model)
    )
    assert before == pytest.approx(float(found[1]), rel=1e-3)
    assert after == pytest.approx(float(found[2]), rel=1e-3)
    assert after < 0.9 * before


def test_tables_train_too_even_one_that_the_last_layer_reads_as_well(tmp_path: Path) -> None:
    model, context = encoder(tmp_path / "model.onnx"), sentences(tmp_path)
    step = WeightsNbits(bits=2, embeddings=True, training=replace(LEARNING, learning_rate=1e-2))
    tokens = np.random.default_rng(1).integers(0, 96, (200, 7))
    wanted = answers(model, tokens=tokens)
    lost = answers(untrained(step, context), tokens=tokens)
    result = apply_step(model, step, context)
    assert len(stored(result.model)) == 3
    assert count_operators(result.model, "GatherBlockQuantized") == 1
    assert count_operators(result.model, "Gather", "Gemm", "MatMul") == 0
    assert _distance(answers(result.model, tokens=tokens), wanted) < 0.5 * _distance(lost, wanted)


def test_a_gemm_with_a_factor_computes_the_same_with_its_latent_weight(tmp_path: Path) -> None:

    model = encoder(tmp_path / "model.onnx")
    narrowing = Narrowing(load_named(model), lambda weight, _: coded(weight, CODERS["binary"]))
    narrowing.products(("up", "down", "back"))
    floating, latents = with_latent_weights(load_named(model), narrowing.places)
    onnx.save(floating, str(tmp_path / "floating.onnx"))
    assert [latent.name for latent in latents] == ["u_latent", "v_latent", "table_latent"]
    tokens = np.random.default_rng(1).integers(0, 96, (5, 7))
    one, other = (
        answers(tmp_path / f"{name}.onnx", tokens=tokens) for name in ("model", "floating")
    )
    assert np.abs(one - other).max() < 1e-5 * np.abs(one).max()
    kept = {one.name for one in floating.graph.initializer}
    assert kept == {"table", "b", "axes", "u_latent", "v_latent", "table_latent"}


def test_patterns_choose_layers(tmp_path: Path) -> None:
    model = models.perceptron(tmp_path / "model.onnx", sizes=(64, 64, 64, 64))
    context = step_context(tmp_path)
    for step, count in (
        (Binarize(include=("*mul[01]",)), 2),
        (Ternarize(include=("mat*",), exclude=("*2",)), 2),
        (WeightsNbits(include=("matmul?",), exclude=("matmul1",)), 2),
        (WeightsNbits(include=("matmul1",)), 1),
    ):
        assert count_operators(apply_step(model, step, context).model, "MatMulNBits") == count
    with pytest.raises(InvalidDocument, match=r"binarize.include names \*ffn\*"):
        apply_step(model, Binarize(include=("*ffn*",)), context)
    with pytest.raises(InvalidDocument, match=r"weights_nbits.exclude names layer\?"):
        apply_step(model, WeightsNbits(exclude=("matmul1", "layer?")), context)


def test_a_name_with_brackets_is_a_name(tmp_path: Path) -> None:
    model = models.perceptron(tmp_path / "model.onnx", sizes=(64, 64, 64))
    loaded = onnx.load(str(model))
    for node in loaded.graph.node:
        if node.op_type == "MatMul":
            node.name = f"layers[{node.name[-1]}]"
    onnx.save(loaded, str(model))
    result = apply_step(model, Binarize(include=("layers[0]",)), step_context(tmp_path))
    assert count_operators(result.model, "MatMulNBits") == 1


def test_notes_say_what_is_still_in_floating_point(tmp_path: Path) -> None:
    model, context = encoder(tmp_path / "model.onnx"), step_context(tmp_path)
    told = apply_step(model, WeightsNbits(exclude=("down",)), context).notes[-2]
    table, down, bias = 4 * 96 * 64, 4 * 128 * 64, 4 * 128
    size = (tmp_path / "work/weights_nbits.onnx").stat().st_size
    floats = table + down + bias
    assert told == (
        f"of the file's {size} bytes {floats} ({floats / size:.0%}) are still weights in floating "
        f"point, read by MatMul {down}, Gather {table}, Add {bias}"
    )
    everything = apply_step(model, WeightsNbits(embeddings=True), context).notes[-2]
    assert f" {bias} (" in everything


def test_it_asks_for_what_it_needs(taught: StepContext, tmp_path: Path) -> None:
    step = Binarize(training=LEARNING)
    with pytest.raises(InvalidData, match=r"binarize needs training data: name a file"):
        apply_step(taught.original, step, replace(taught, data={}))
    with pytest.raises(InvalidDocument, match=r"ternarize.temperature must be above 0"):
        Ternarize(temperature=0.0)
    with pytest.raises(InvalidDocument, match=r"algorithm must be rtn with training, got hqq"):
        WeightsNbits(algorithm="hqq", training=LEARNING)
    narrow = apply_step(taught.original, Binarize(include=("matmul0",)), taught).model
    first = narrow.rename(tmp_path / "first.onnx")
    with pytest.raises(NotSupported, match=r"com.microsoft.MatMulNBits"):
        apply_step(first, step, taught)


def _coder(step: Kind) -> Coder:
    if isinstance(step, Binarize):
        return partial(binary, block_size=step.block_size)
    if isinstance(step, Ternarize):
        return partial(ternary, block_size=step.block_size)
    return partial(nearest, bits=step.bits, block_size=step.block_size, symmetric=step.symmetric)


def _distance(found: Floats, wanted: Floats) -> float:
    """1 - mean cosine of rows."""
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    return float(1 - ((found * wanted).sum(axis=1) / norms).mean())
