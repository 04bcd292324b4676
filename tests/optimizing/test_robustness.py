"""A variant may follow the original on recorded items and not on slightly different ones."""

from __future__ import annotations

from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest

from optimizers.calibration import Arrays
from optimizers.contract.errors import InvalidData, InvalidDocument
from optimizers.contract.evaluation import Gate
from optimizers.contract.goal import FigureName, Goal, parse_requirement
from optimizers.contract.host import this_host
from optimizers.contract.perturbation import Perturbation, PerturbationKind
from optimizers.contract.profile import Task
from optimizers.contract.quantization import DynamicInt8, StaticInt8
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.contract.signature import Signature, TensorSpec
from optimizers.contract.steps import Step
from optimizers.evaluation.answers import ask, read_gate
from optimizers.evaluation.comparison import judge_answers
from optimizers.evaluation.findings import Broken, Findings
from optimizers.evaluation.floors import OutputKinds, with_floors
from optimizers.evaluation.gates import judge
from optimizers.evaluation.perturbing import check_perturbation, perturbed
from optimizers.evaluation.robustness import judge_robustness
from optimizers.evaluation.subject import Subject
from optimizers.step import StepContext
from optimizers.techniques import apply_step
from tests.support import models

SESSION = SessionSpec(lanes=1, max_batch=8)
BRIGHT = "agreement under brightness 2 >= 0.9"
CLEAN = "agreement >= 0.9"


def wish(kind: PerturbationKind, amount: float) -> Perturbation:
    return Perturbation(kind=kind, amount=amount)


def takes(**inputs: tuple[str, tuple[int, ...]]) -> Signature:
    return Signature(
        inputs=tuple(
            TensorSpec(name=name, datatype=datatype, shape=shape)
            for name, (datatype, shape) in inputs.items()
        ),
        outputs=(),
    )


def test_a_sentence_names_what_it_is_judged_under() -> None:
    found = parse_requirement("accuracy under shift 2 <= 2 points worse")
    assert found.figure is FigureName.ACCURACY
    assert found.limit == pytest.approx(0.02)
    assert found.under == wish(PerturbationKind.SHIFT, 2)
    assert parse_requirement("agreement under noise 0.05>=0.95").under == wish(
        PerturbationKind.NOISE, 0.05
    )
    assert parse_requirement("agreement >= 0.95").under is None


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("latency_p50 under noise 0.1 <= 2 ms", "does not depend on what the items hold"),
        ("agreement under nose 0.1 >= 0.9", "did you mean 'noise'"),
        ("agreement under noise 0 >= 0.9", "expected a share above 0"),
        ("agreement under shift 1.5 >= 0.9", "expected whole pixels"),
        ("agreement under contrast 1 >= 0.9", "expected a factor above 0 that is not 1"),
        ("agreement under brightness 0 >= 0.9", "expected a share that is not 0"),
        ("agreement under noise >= 0.9", "was not understood"),
    ],
)
def test_what_makes_no_sense_is_refused_when_it_is_written(text: str, hint: str) -> None:
    with pytest.raises(InvalidDocument, match=hint):
        parse_requirement(text)


def test_noise_has_the_stated_share_of_the_inputs_deviation_and_comes_again() -> None:
    signature = takes(x=("FP32", (-1, 50)), ids=("INT64", (-1,)))
    random = np.random.default_rng(0)
    items: Arrays = {
        "x": random.normal(5, 4, (2000, 50)).astype(np.float32),
        "ids": np.arange(2000),
    }
    noisy = perturbed(signature, items, wish(PerturbationKind.NOISE, 0.05), seed=3)
    assert noisy["x"].dtype == np.float32
    added = noisy["x"] - items["x"]
    assert added.std() == pytest.approx(0.05 * 4, rel=0.02)
    assert abs(added.mean()) < 0.005
    np.testing.assert_array_equal(noisy["ids"], items["ids"])
    again = perturbed(signature, items, wish(PerturbationKind.NOISE, 0.05), seed=3)
    np.testing.assert_array_equal(noisy["x"], again["x"])
    other = perturbed(signature, items, wish(PerturbationKind.NOISE, 0.05), seed=4)
    assert (noisy["x"] != other["x"]).any()


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_shift_moves_every_item_and_repeats_the_edge(channels_last: bool) -> None:
    image = np.arange(5 * 6, dtype=np.float32).reshape(1, 1, 5, 6).repeat(64, axis=0)
    edge = np.pad(image[0, 0], 2, mode="edge")
    expected = [edge[2 + down : 7 + down, 2 + right : 8 + right] for down, right in MOVES]
    if channels_last:
        image = image.transpose(0, 2, 3, 1)
    signature = takes(x=("FP32", image.shape))
    moved = perturbed(signature, {"x": image}, wish(PerturbationKind.SHIFT, 2), seed=0)["x"]
    found = moved.reshape(64, 5, 6)
    counts = [sum(np.array_equal(item, one) for item in found) for one in expected]
    assert sum(counts) == 64
    assert min(counts) > 5, "every direction occurs"


MOVES = ((2, 0), (-2, 0), (0, 2), (0, -2))


def test_brightness_and_contrast_are_affine() -> None:
    signature = takes(x=("FP32", (-1, 2)))
    items = {"x": np.array([[0, 2], [4, 6]], np.float32)}  # mean 3, deviation sqrt(5)
    brighter = perturbed(signature, items, wish(PerturbationKind.BRIGHTNESS, -0.5), seed=0)
    np.testing.assert_allclose(brighter["x"], items["x"] - 0.5 * np.sqrt(5), rtol=1e-6)
    flatter = perturbed(signature, items, wish(PerturbationKind.CONTRAST, 0.5), seed=0)
    np.testing.assert_allclose(flatter["x"], [[1.5, 2.5], [3.5, 4.5]])


def test_what_cannot_be_perturbed_is_said() -> None:
    tokens = takes(ids=("INT64", (-1, 8)))
    ids = {"ids": np.zeros((4, 8), np.int64)}
    with pytest.raises(InvalidData, match=r"under noise 0.1: .* floating .* takes ids INT64"):
        check_perturbation(tokens, ids, wish(PerturbationKind.NOISE, 0.1))
    rows = takes(x=("FP32", (-1, 8)))
    with pytest.raises(InvalidData, match="an input of images"):
        check_perturbation(
            rows, {"x": np.ones((4, 8), np.float32)}, wish(PerturbationKind.SHIFT, 1)
        )
    images = takes(x=("FP32", (-1, 3, 8, 4)))
    small = {"x": np.ones((2, 3, 8, 4), np.float32)}
    with pytest.raises(InvalidData, match=r"'x' has \[8, 4\] pixels"):
        check_perturbation(images, small, wish(PerturbationKind.SHIFT, 4))
    with pytest.raises(InvalidData, match="is the same"):
        check_perturbation(images, small, wish(PerturbationKind.CONTRAST, 2))


def test_amounts_that_differ_a_little_are_two_perturbations() -> None:
    """A figure is found by its text, which a requirement has to understand as well."""
    amounts = (0.1234567, 0.1234568, 0.00001, 2.0, 12345678.0)
    texts = [wish(PerturbationKind.NOISE, amount).text for amount in amounts]
    assert texts[2:] == ["noise 0.00001", "noise 2", "noise 12345678"]
    for amount, text in zip(amounts, texts, strict=True):
        read = parse_requirement(f"agreement under {text} >= 0.9").under
        assert read == wish(PerturbationKind.NOISE, amount)


def test_numbers_that_become_infinite_are_an_error_and_no_agreement() -> None:
    halves = takes(x=("FP16", (-1, 4)))
    items = {"x": np.array([[1, 2, 3, 4], [-4, 3, 2, 1]], np.float16)}
    strong = wish(PerturbationKind.CONTRAST, 30000)
    check_perturbation(halves, items, strong)
    with pytest.raises(InvalidData, match="contrast 30000: numbers of 'x' leave float16"):
        perturbed(halves, items, strong, seed=0)


def test_a_requirement_under_something_replaces_no_floor() -> None:
    goal = Goal(require=(parse_requirement("agreement under noise 0.1 >= 0.5"),))
    kinds = OutputKinds(floating=True, wide=True, exact=False)
    floors = with_floors(goal, Task.CLASSIFICATION, kinds).require
    assert "agreement >= 0.95" in [requirement.text for requirement in floors]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier, and items in [-1, 1] labelled by it: ranges of calibration end there."""
    folder = tmp_path_factory.mktemp("robustness")
    original = models.perceptron(folder / "model.onnx", sizes=(16, 64, 4))
    with closing(Session(original, SESSION)) as session:
        [spec] = session.signature.inputs
        for seed, (name, count) in enumerate((("gate", 600), ("calibration", 64))):
            values = np.random.default_rng(seed).uniform(-1, 1, (count, 16)).astype(np.float32)
            labels = session.run({spec.name: values})[0].argmax(axis=1)
            np.savez(folder / f"{name}.npz", **{spec.name: values, "labels": labels})
    return folder


def variant(home: Path, step: Step, work: Path) -> Path:
    context = StepContext(
        work_directory=work,
        original=home / "model.onnx",
        host=this_host(2),
        session=SESSION,
        goal=Goal(),
        task=Task.CLASSIFICATION,
        data={"calibration": home / "calibration.npz"},
        seed=0,
        report=lambda share, text: None,
    )
    return apply_step(home / "model.onnx", step, context).model


def subject(home: Path, path: Path, *require: str) -> Subject:
    return Subject(
        original=home / "model.onnx",
        original_session=SESSION,
        variant=path,
        session=SESSION,
        goal=Goal(require=tuple(map(parse_requirement, require))),
        task=Task.CLASSIFICATION,
        gate_data=home / "gate.npz",
        gate_sha256="0" * 64,
        gate_use=1,
        host=this_host(2),
        seed=0,
        measure_timeout_s=10,
    )


def judged(given: Subject) -> Findings:
    """The gates that compare answers."""
    findings = Findings(goal=given.goal, alpha=0.01)
    sessions = Session(given.original, SESSION), Session(given.variant, SESSION)
    with closing(sessions[0]), closing(sessions[1]), suppress(Broken):
        gate = read_gate(given, sessions[0])
        assert gate is not None
        answers = ask(sessions, gate.items, given.seed, findings, unheard)
        judge_answers(given.task, gate, answers, findings)
        judge_robustness(given, sessions, gate, answers, findings, unheard)
    return findings


def unheard(stage: str, share: float, text: str) -> None:
    """Nobody listens."""


def test_ranges_that_clip_are_refused_under_brightness_and_not_on_clean_items(
    home: Path, tmp_path: Path
) -> None:
    clipped = variant(home, StaticInt8(), tmp_path)
    assert all(check.passed for check in judged(subject(home, clipped, CLEAN)).checks)
    found = judged(subject(home, clipped, CLEAN, BRIGHT))
    broken = [check for check in found.checks if check.passed is False]
    assert [check.gate for check in broken] == [Gate.ROBUSTNESS]
    assert BRIGHT in broken[0].text


def test_a_faithful_variant_passes_and_its_figures_stand_beside_the_clean_ones(
    home: Path, tmp_path: Path
) -> None:
    sound = variant(home, DynamicInt8(), tmp_path)
    worse = "accuracy under noise 0.1 <= 5 points worse"
    found = judged(subject(home, sound, CLEAN, BRIGHT, worse))
    assert all(check.passed for check in found.checks), [check.text for check in found.checks]
    names = {(figure.name, figure.under) for figure in found.figures}
    answers = (FigureName.AGREEMENT, FigureName.COSINE, FigureName.SQNR, FigureName.ACCURACY)
    assert names == {
        (name, under) for name in answers for under in ("", "brightness 2", "noise 0.1")
    }
    noisy = next(f for f in found.figures if f.name is answers[3] and f.under == "noise 0.1")
    assert noisy.condition == "noise 0.1"
    assert noisy.original is not None
    assert noisy.original.value < 1, "noise costs the original itself something"


def test_the_gate_does_not_open_for_what_cannot_be_perturbed(home: Path) -> None:
    given = subject(home, home / "model.onnx", "agreement under shift 1 >= 0.9")
    with pytest.raises(InvalidData, match=r"under shift 1: expected an input of images"):
        judge(given, unheard)
