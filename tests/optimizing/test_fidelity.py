"""How answers are compared, item by item, and what is expected where nobody asked."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from optimizers.contract.evaluation import Estimate, Figure, Gate
from optimizers.contract.goal import FigureName, Goal, parse_requirement
from optimizers.contract.profile import Task
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.contract.signature import Signature, TensorSpec
from optimizers.evaluation.fidelity import (
    LARGEST_SQNR_DB,
    agreement_figure,
    answer,
    cosine,
    cosine_figure,
    first_bad_number,
    sqnr_db,
    sqnr_figure,
)
from optimizers.evaluation.floors import OutputKinds, output_kinds, with_floors
from optimizers.evaluation.progress import at_most_every
from optimizers.evaluation.verdict import check_requirement
from tests.support import models

INF, NAN = float("inf"), float("nan")


def output(name: str, *shape: int, datatype: str = "FP32") -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=(-1, *shape))


def signature(*outputs: TensorSpec) -> Signature:
    return Signature(inputs=(output("x", 3),), outputs=outputs)


def floats(*rows: list[float]) -> NDArray[np.float32]:
    return np.array(rows, np.float32)


def test_a_bad_number_is_found_beside_infinities_of_the_original() -> None:
    """An item may be masked in part; the rest of it counts nevertheless."""
    outputs = signature(output("y", 3))
    original = floats([1, 2, 3], [1, 2, -INF])
    assert first_bad_number(outputs, [original], [floats([1, 2, 3], [NAN, 2, -INF])]) == ("y", 1)
    assert first_bad_number(outputs, [original], [floats([1, 2, 3], [1, 2, -INF])]) is None
    assert first_bad_number(outputs, [original], [floats([1, 2, 3], [1, 2, 7])]) is None


def test_noise_in_decibels_is_what_hand_calculation_gives() -> None:
    """10 log10(25 / 0.25) = 20; ten times the amplitude in noise is -20."""
    original = floats([3, 4], [3, 4], [0, 0], [3, 4])
    variant = floats([3.5, 4], [33, 44], [0, 0], [3, 4])
    np.testing.assert_allclose(
        sqnr_db(original, variant), [20, -20, LARGEST_SQNR_DB, LARGEST_SQNR_DB], atol=1e-5
    )


def test_masked_elements_are_no_noise_and_no_signal() -> None:
    original = floats([3, 4, -INF], [3, 4, NAN])
    variant = floats([3.5, 4, -INF], [3.5, 4, NAN])
    np.testing.assert_allclose(sqnr_db(original, variant), [20, 20], atol=1e-5)
    np.testing.assert_allclose(cosine(original, variant), cosine(original[:, :2], variant[:, :2]))


@pytest.mark.parametrize("bad", [INF, -INF, NAN])
def test_an_infinity_of_ones_own_is_the_worst_there_is(bad: float) -> None:
    one, other = floats([1, 2]), floats([1, bad])
    for original, variant in ((one, other), (other, one)):
        assert sqnr_db(original, variant) == [-LARGEST_SQNR_DB]
        assert cosine(original, variant) == [-1.0]


def test_large_and_small_numbers_do_not_overflow() -> None:
    original = np.array([[3e200, 4e200], [3e-200, 4e-200]])
    np.testing.assert_allclose(sqnr_db(original, original * 1.1), [20, 20], atol=1e-9)
    np.testing.assert_allclose(cosine(original, original * 1.1), [1, 1])


def test_cosine_is_of_directions_only() -> None:
    original = floats([1, 0], [1, 0], [1, 0], [0, 0], [0, 0])
    variant = floats([9, 0], [0, 1], [-1, 0], [0, 0], [1, 0])
    np.testing.assert_allclose(cosine(original, variant), [1, 0, -1, 1, 0])


def test_a_few_ruined_answers_show_in_the_fifth_percentile() -> None:
    """43 % of the answers a hundred times too large leave the median untouched."""
    original = np.random.default_rng(0).standard_normal((600, 4))
    factor = np.where(np.arange(600) % 100 < 43, 100.0, 1.0)[:, None]
    figure = sqnr_figure(signature(output("y", 4)), [original], [[original * factor]], 0.01)
    assert figure is not None
    assert figure.value.value == pytest.approx(-39.9, abs=0.1)


def test_the_output_and_company_with_the_worst_bound_count() -> None:
    random = np.random.default_rng(1)
    outputs = signature(output("good", 4), output("bad", 4), output("number", 1))
    original = [random.standard_normal((300, width)) for width in (4, 4, 1)]
    slightly = [array * 1.01 for array in original]
    noisy = [original[0], original[1] + random.standard_normal((300, 4)), original[2]]
    for figure in (
        sqnr_figure(outputs, original, [slightly, noisy], 0.01),
        cosine_figure(outputs, original, [slightly, noisy], 0.01),
    ):
        assert figure is not None
        assert figure.condition == "output 'bad'"
        assert "output 'bad'" in figure.method


def test_the_cosine_of_single_numbers_is_not_asked_for() -> None:
    one = [np.ones((300, 1))]
    assert cosine_figure(signature(output("y", 1)), one, [one], 0.01) is None
    assert sqnr_figure(signature(output("y", 1)), one, [one], 0.01) is not None


def test_the_output_that_agrees_least_counts() -> None:
    good, bad = np.ones(100, bool), np.arange(100) < 60
    figure = agreement_figure({"scores": good, "label": bad}, 0.01)
    assert (figure.value.value, figure.condition) == (0.6, "output 'label'")


FLOATS = OutputKinds(floating=True, wide=True, exact=False)


@pytest.mark.parametrize(
    ("task", "kinds", "asked", "floors"),
    [
        (Task.CLASSIFICATION, FLOATS, (), ["agreement >= 0.95", "sqnr >= 15 dB"]),
        (Task.EMBEDDING, FLOATS, (), ["cosine >= 0.99", "sqnr >= 15 dB"]),
        (Task.REGRESSION, FLOATS, (), ["sqnr >= 20 dB"]),
        (Task.OTHER, FLOATS, (), ["cosine >= 0.99", "sqnr >= 15 dB"]),
        (
            Task.OTHER,
            OutputKinds(floating=True, wide=False, exact=True),
            (),
            ["agreement >= 0.95", "sqnr >= 15 dB"],
        ),
        (
            Task.OTHER,
            OutputKinds(floating=False, wide=False, exact=True),
            (),
            ["agreement >= 0.95"],
        ),
        (
            Task.CLASSIFICATION,
            OutputKinds(floating=True, wide=True, exact=True),
            ("accuracy <= 1 point worse",),
            ["agreement >= 0.95", "sqnr >= 15 dB"],
        ),
        (Task.CLASSIFICATION, FLOATS, ("accuracy <= 1 point worse",), ["sqnr >= 15 dB"]),
        (Task.CLASSIFICATION, FLOATS, ("agreement >= 0.5", "sqnr >= 1 dB"), []),
        (Task.REGRESSION, FLOATS, ("sqnr >= 3 dB",), []),
    ],
)
def test_floors_follow_from_task_and_outputs(
    task: Task, kinds: OutputKinds, asked: tuple[str, ...], floors: list[str]
) -> None:
    goal = Goal(require=tuple(parse_requirement(text) for text in asked))
    found = [requirement.text for requirement in with_floors(goal, task, kinds).require]
    assert found == [*asked, *floors]


def test_kinds_of_outputs_are_read_from_answers_where_there_are_any() -> None:
    outputs = signature(output("y", -1), output("label", datatype="INT64"))
    assert output_kinds(outputs, None).wide
    answers: list[NDArray[Any]] = [np.zeros((1, 1), np.float32), np.zeros(1, np.int64)]
    assert output_kinds(outputs, answers) == OutputKinds(floating=True, wide=False, exact=True)


def figure(
    name: FigureName, samples: int, value: Estimate, difference: Estimate | None = None
) -> Figure:
    return Figure(name=name, unit="", samples=samples, value=value, difference=difference)


@pytest.mark.parametrize(
    ("text", "found", "needed"),
    [
        # 0.01^(1 / n) >= 0.99 from n = ln 0.01 / ln 0.99 = 458.2 on.
        (
            "agreement >= 0.99",
            figure(FigureName.AGREEMENT, 400, Estimate(value=1.0, lower=0.988)),
            "400 items, at least 459 are needed",
        ),
        # 0.95^n <= 0.01 from n = 89.8 on.
        (
            "sqnr >= 15 dB",
            figure(FigureName.SQNR, 89, Estimate(value=40.0)),
            "89 items, at least 90 are needed",
        ),
        # Nothing lost: 1 - 0.005^(1 / n) <= 0.01 from n = ln 0.005 / ln 0.99 = 527.2 on.
        (
            "accuracy <= 1 point worse",
            figure(
                FigureName.ACCURACY,
                500,
                value=Estimate(value=0.5),
                difference=Estimate(value=-0.2, lower=-0.3),
            ),
            "500 items, at least 528 are needed",
        ),
        (
            "agreement >= 1",
            figure(FigureName.AGREEMENT, 400, Estimate(value=1.0, lower=0.988)),
            "400 items, and not even 1048576 would do",
        ),
    ],
)
def test_what_no_sample_of_that_size_could_show_is_not_judged(
    text: str, found: Figure, needed: str
) -> None:
    check = check_requirement(parse_requirement(text), found, Gate.FIDELITY, 0.01)
    assert check.passed is None
    assert check.text == f"'{text}' could not be judged: {needed}"


def test_with_enough_items_a_missed_limit_is_held_against_a_variant() -> None:
    found = figure(FigureName.AGREEMENT, 459, Estimate(value=0.998, lower=0.985))
    requirement = parse_requirement("agreement >= 0.99")
    assert check_requirement(requirement, found, Gate.FIDELITY, 0.01).passed is False


def test_a_thousand_items_are_told_of_once_a_second() -> None:
    clock = iter(np.arange(0.0, 1000.0, 0.1).tolist())
    told: list[float] = []
    rarely = at_most_every(1.0, told.append, lambda: next(clock))
    for done in range(100):
        rarely(done / 100)
    assert 5 <= len(told) <= 11, "every call reads the clock, and it goes on by 0.1 s"
    assert told == sorted(told)


def test_answering_tells_how_far_it_is(tmp_path: Path) -> None:
    told: list[float] = []
    with closing(Session(models.linear(tmp_path / "linear.onnx"), SessionSpec())) as session:
        items = {"x": np.random.default_rng(0).random((7, 4), np.float32)}
        order = np.array([6, 0, 3, 1, 5, 2, 4])
        found = answer(session, items, order, batch=3, share=told.append)
        np.testing.assert_allclose(found[0], session.run(items)[0], rtol=1e-6)
    assert told == [3 / 7, 6 / 7, 1.0]
