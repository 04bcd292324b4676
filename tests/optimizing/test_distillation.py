"""Training from labels and from a teacher: the losses by hand, the effect on real digits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from optimizers.contract.distillation import Distill, FeaturePair, Finetune
from optimizers.contract.errors import InvalidData, InvalidDocument, NotSupported
from optimizers.contract.profile import Task
from optimizers.learning.losses import (
    Projection,
    as_logits,
    attention_distance,
    cosine_distance,
    mean_square,
    relative_error,
    softened_divergence,
)
from optimizers.step import StepContext
from optimizers.techniques import apply_step
from tests.support.digits import (
    SHORT,
    accuracy,
    agreement,
    answers,
    digits,
    train_original,
    training_context,
    untrained,
)


@pytest.fixture
def context(tmp_path: Path) -> StepContext:
    return training_context(tmp_path)


def softmax(x: NDArray[Any]) -> NDArray[Any]:
    exponents = np.exp(x - x.max(axis=1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True))


# The losses


def random_pair(*shape: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    random = np.random.default_rng(7)
    return random.standard_normal(shape), random.standard_normal(shape)


def test_the_softened_divergence_is_that_of_the_formula() -> None:
    student, teacher = random_pair(5, 7)
    p, q = softmax(teacher / 3), softmax(student / 3)
    expected = 9 * (p * np.log(p / q)).sum(axis=1).mean()
    found = softened_divergence(torch.from_numpy(student), torch.from_numpy(teacher), 3.0)
    assert float(found) == pytest.approx(expected)
    the_other_way = 9 * (q * np.log(q / p)).sum(axis=1).mean()
    assert float(found) != pytest.approx(the_other_way), "the direction matters"


def test_the_other_losses_are_those_of_their_formulas() -> None:
    s, t = random_pair(5, 7)
    student, teacher = torch.from_numpy(s), torch.from_numpy(t)
    cosine = (s * t).sum(axis=1) / np.linalg.norm(s, axis=1) / np.linalg.norm(t, axis=1)
    assert float(cosine_distance(student, teacher)) == pytest.approx((1 - cosine).mean())
    size = mean_square([teacher[:2], teacher[2:]])
    assert size == pytest.approx((t**2).mean())
    error = float(relative_error(student, teacher, size))
    assert error == pytest.approx(((s - t) ** 2).mean() / (t**2).mean())
    s, t = random_pair(3, 4, 5)
    maps = [(one**2).mean(axis=1) for one in (s, t)]
    one, other = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in maps)
    found = attention_distance(torch.from_numpy(s), torch.from_numpy(t))
    assert float(found) == pytest.approx(((one - other) ** 2).sum(axis=1).mean())


def test_probabilities_count_as_logits_by_their_logarithms() -> None:
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    probabilities = logits.softmax(dim=1)
    again = as_logits([probabilities])(probabilities)
    assert torch.allclose(again.softmax(dim=1), probabilities, atol=1e-6)
    assert as_logits([logits])(logits) is logits


def test_a_projection_maps_channels_wherever_they_are() -> None:
    images = Projection(torch.zeros(2, 3, 4, 4), torch.zeros(2, 8, 4, 4))
    assert images(torch.zeros(5, 3, 4, 4)).shape == (5, 8, 4, 4)
    tokens = Projection(torch.zeros(2, 6, 3), torch.zeros(2, 6, 8))
    assert tokens(torch.zeros(5, 6, 3)).shape == (5, 6, 8)
    same = Projection(torch.zeros(2, 3), torch.zeros(2, 3))
    assert torch.equal(same(torch.ones(1, 3)), torch.ones(1, 3)), "the identity at birth"


# Labels


def test_finetune_learns_real_digits_and_writes_what_it_learned(context: StepContext) -> None:
    model = untrained(context.original)
    before = accuracy(model)
    result = apply_step(model, Finetune(training=SHORT), context)
    assert result.modified
    assert before < 0.3
    assert accuracy(result.model) > 0.8
    assert "held-out items" in result.notes[0]
    spoiled = onnx.load(str(result.model))  # what this test would miss if accuracy told nothing
    weight = next(one for one in spoiled.graph.initializer if list(one.dims) == [48, 10])
    turned = np.roll(onnx.numpy_helper.to_array(weight), 1, axis=1)
    weight.CopyFrom(onnx.numpy_helper.from_array(turned, weight.name))
    onnx.save(spoiled, str(context.work_directory / "spoiled.onnx"))
    assert accuracy(context.work_directory / "spoiled.onnx") < 0.3


def test_the_same_seed_trains_the_same_bytes(context: StepContext, tmp_path: Path) -> None:
    model = untrained(context.original)
    made = []
    for turn in range(2):
        work = tmp_path / f"turn{turn}"
        work.mkdir()
        training = replace(SHORT, epochs=1)
        result = apply_step(
            model, Finetune(training=training), replace(context, work_directory=work)
        )
        made.append(result.model.read_bytes())
    assert made[0] == made[1]


def test_frozen_weights_stay_as_they_are(context: StepContext) -> None:
    model = untrained(context.original)
    result = apply_step(model, Finetune(training=SHORT, freeze=("w0",)), context)
    weights = [
        {
            one.name: onnx.numpy_helper.to_array(one)
            for one in onnx.load(str(path)).graph.initializer
        }
        for path in (model, result.model)
    ]
    assert np.array_equal(weights[0]["w0"], weights[1]["w0"])
    assert not np.array_equal(weights[0]["w1"], weights[1]["w1"])
    with pytest.raises(InvalidDocument, match=r"freeze names w9; the model's weights are w0"):
        apply_step(model, Finetune(freeze=("w9",)), context)


def test_finetune_needs_labels_that_fit_and_a_classifier(
    context: StepContext, tmp_path: Path
) -> None:
    model, (images, labels) = untrained(context.original), digits()["train"]
    with pytest.raises(NotSupported, match=r"distill learns from the original"):
        apply_step(model, Finetune(), replace(context, task=Task.EMBEDDING))
    with pytest.raises(InvalidData, match=r"needs training data: name a file as data\.train"):
        apply_step(model, Finetune(), replace(context, data={}))
    np.savez(tmp_path / "train.npz", x=images)
    with pytest.raises(InvalidData, match="finetune needs labels"):
        apply_step(model, Finetune(), context)
    np.savez(tmp_path / "train.npz", x=images, labels=labels + 5)
    with pytest.raises(InvalidData, match=r"labels must lie in 0\.\.9"):
        apply_step(model, Finetune(), context)


def test_zeros_stay_where_that_is_asked_and_are_told_of_where_not(context: StepContext) -> None:
    model = untrained(context.original)
    sparse = onnx.load(str(model))
    for tensor in sparse.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor).copy()
        if array.ndim == 2:
            array[np.abs(array) < np.quantile(np.abs(array), 0.5)] = 0
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    onnx.save(sparse, str(model))

    def zeros(path: Path) -> float:
        weight = next(one for one in onnx.load(str(path)).graph.initializer if one.name == "w0")
        return float((onnx.numpy_helper.to_array(weight) == 0).mean())

    short = replace(SHORT, epochs=1, ema=0.5)
    kept = apply_step(model, Finetune(training=short, keep_zeros=True), context)
    assert zeros(kept.model) == zeros(model)
    assert len(kept.notes) == 1
    lost = apply_step(model, Finetune(training=short), context)
    assert zeros(lost.model) < zeros(model) - 0.2
    assert "keep_zeros: true keeps them so" in lost.notes[1]


def test_labels_are_for_the_output_with_scores_of_classes(context: StepContext) -> None:
    """An embedding comes first; classes by that one would spoil it."""
    model = untrained(context.original)
    proto = onnx.load(str(model))
    hidden = onnx.helper.make_tensor_value_info("h0", onnx.TensorProto.FLOAT, ["batch", 48])
    outputs = [hidden, *proto.graph.output]
    del proto.graph.output[:]
    proto.graph.output.extend(outputs)
    onnx.save(proto, str(model))
    with pytest.raises(NotSupported, match="not exactly one output with scores of classes"):
        apply_step(model, Finetune(training=SHORT), context)
    assert apply_step(model, Distill(training=SHORT), context).notes


# A teacher


@pytest.fixture
def taught(context: StepContext) -> StepContext:
    """The original is a trained perceptron; the training data has no labels."""
    train_original(context)
    return context


@pytest.mark.parametrize(
    ("step", "task"),
    [
        (Distill(training=SHORT), Task.CLASSIFICATION),
        (Distill(training=SHORT), Task.REGRESSION),
        (Distill(training=SHORT), Task.EMBEDDING),
        (
            Distill(training=SHORT, features=(FeaturePair(teacher="h0", student="h0"),)),
            Task.CLASSIFICATION,
        ),
    ],
    ids=["classes", "numbers", "embeddings", "features"],
)
def test_a_student_learns_to_answer_like_its_teacher_without_labels(
    taught: StepContext, tmp_path: Path, step: Distill, task: Task
) -> None:
    student = untrained(tmp_path / "student.onnx", seed=3)
    before = agreement(student, taught.original)
    result = apply_step(student, step, replace(taught, task=task))
    assert result.modified
    assert before < 0.3
    assert agreement(result.model, taught.original) > 0.8
    if task is Task.CLASSIFICATION:  # whoever reads the logits sees what softmax does not
        error = np.square(answers(result.model) - answers(taught.original)).mean()
        assert error < 0.1 * np.square(answers(taught.original)).mean()
    another = untrained(tmp_path / "another.onnx", seed=9, width=96)
    assert agreement(result.model, another) < 0.4, "agreement tells teachers apart"


def test_what_cannot_get_better_is_left_as_it_is(taught: StepContext) -> None:
    result = apply_step(taught.original, Distill(training=SHORT), taught)
    assert (result.modified, result.model) == (False, taught.original)
    assert "it did not fall, so nothing was kept" in result.notes[0]


def test_tensors_that_are_not_there_are_named(taught: StepContext, tmp_path: Path) -> None:
    student = untrained(tmp_path / "student.onnx")
    step = Distill(features=(FeaturePair(teacher="h0", student="h7"),))
    with pytest.raises(InvalidDocument, match="the model has no tensor h7"):
        apply_step(student, step, taught)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Distill(temperature=0.0), "distill.temperature must be above 0, got 0.0"),
        (lambda: Distill(weight=1.5), r"distill.weight must be in \[0, 1\], got 1.5"),
        (lambda: Distill(feature_weight=-1.0), "distill.feature_weight must be at least 0"),
    ],
)
def test_parameters_out_of_range_are_told(make: Callable[[], Distill], text: str) -> None:
    with pytest.raises(InvalidDocument, match=text):
        make()
