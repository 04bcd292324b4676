"""Candidates are measured beside the original on the search's data, and broken ones are told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from optimizers.contract.errors import InvalidData
from optimizers.contract.evaluation import Figure
from optimizers.contract.goal import FigureName, Goal, parse_requirement
from optimizers.contract.host import this_host
from optimizers.contract.profile import Task
from optimizers.contract.quantization import DynamicInt8
from optimizers.contract.runtime import SessionSpec
from optimizers.evaluation.limits import measured
from optimizers.evaluation.quiet import Usage
from optimizers.search.assessment import Assessment, Assessor, Terms
from optimizers.search.objectives import cannot_win, objectives, violation
from optimizers.search.timing import LOOKS
from optimizers.step import StepContext
from optimizers.techniques import apply_step
from tests.support import faults, models
from tests.support.data import write_data

pytestmark = pytest.mark.alone  # times are measured

SESSION = SessionSpec(lanes=2, max_batch=8)
GOAL = Goal(
    optimize=(FigureName.SIZE, FigureName.LATENCY_P50),
    require=(
        parse_requirement("agreement >= 0.9"),
        parse_requirement("agreement under noise 0.05 >= 0.8"),
        parse_requirement("latency_p50 <= 300 % worse"),
    ),
)
SMALLER = Goal(optimize=(FigureName.SIZE,), require=(parse_requirement("agreement >= 0.9"),))
ANSWERS = {
    *(FigureName.AGREEMENT, FigureName.COSINE, FigureName.SQNR, FigureName.ACCURACY),
}


def undisturbed() -> Usage:
    """Other people use this machine while the suite runs; that is not what is tested here."""
    return Usage(clock=0.0, busy=0.0, stolen=0.0, own=0.0, processors=2)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("assessment")
    original = models.perceptron(folder / "original.onnx", sizes=(16, 128, 128, 4))
    write_data(folder, original, gate_items=500)
    (folder / "gate.npz").rename(folder / "search.npz")
    context = StepContext(
        work_directory=folder,
        original=original,
        host=this_host(2),
        session=SESSION,
        goal=Goal(),
        task=Task.CLASSIFICATION,
        data={"calibration": folder / "calibration.npz"},
        seed=0,
        report=lambda share, text: None,
    )
    made = apply_step(original, DynamicInt8(), context)
    made.model.rename(folder / "int8.onnx")
    return folder


def assessor(home: Path, goal: Goal, data: Path | None, **given: float) -> Assessor:
    terms = Terms(
        original=home / "original.onnx",
        original_session=SESSION,
        goal=goal,
        task=Task.CLASSIFICATION,
        data=data,
        host=this_host(2),
        timing_s=given.get("timing_s", 10.0),
        price=given.get("price", 1.0),
    )
    return Assessor(terms, undisturbed)


@pytest.fixture(scope="module")
def judge(home: Path) -> Iterator[Assessor]:
    with assessor(home, GOAL, home / "search.npz") as opened:
        yield opened


@pytest.fixture(scope="module")
def simple(home: Path) -> Iterator[Assessor]:
    """One that times nothing."""
    with assessor(home, SMALLER, home / "search.npz") as opened:
        yield opened


def found(assessment: Assessment, name: FigureName, under: str = "") -> Figure:
    figure = measured(assessment.figures, name, under)
    assert figure is not None, assessment
    return figure


@pytest.fixture(scope="module")
def structure(judge: Assessor, home: Path) -> Assessment:
    return judge.structure(home / "int8.onnx", SESSION)


def test_structure_is_size_and_paired_times_without_answers(
    structure: Assessment, home: Path
) -> None:
    got = structure
    assert got.broken == ""
    assert got.seconds > 0
    names = {figure.name for figure in got.figures}
    assert names == {FigureName.SIZE, FigureName.LATENCY_P50, FigureName.LATENCY_P99}
    size = found(got, FigureName.SIZE)
    assert size.value.value == (home / "int8.onnx").stat().st_size
    assert size.ratio is not None
    assert size.ratio.upper is not None
    assert size.ratio.upper < 0.5
    latency = found(got, FigureName.LATENCY_P50)
    assert latency.samples in LOOKS
    assert latency.ratio is not None
    assert latency.ratio.lower is not None
    assert latency.ratio.upper is not None
    assert latency.ratio.lower <= latency.ratio.value <= latency.ratio.upper
    assert "at most 3 looks, 0 units void" in latency.method


def test_answers_have_bounds_and_what_is_asked_under_noise(
    judge: Assessor, structure: Assessment, home: Path
) -> None:
    got = judge.answers(home / "int8.onnx", SESSION)
    assert got.broken == ""
    assert not got.missing
    for under in ("", "noise 0.05"):
        names = {figure.name for figure in got.figures if figure.under == under}
        assert names == ANSWERS
        value = found(got, FigureName.AGREEMENT, under).value
        assert value.lower is not None
        assert 0.9 < value.lower < value.value
    figures = (*structure.figures, *got.figures)
    assert violation(judge.goal, figures) == 0
    assert objectives(judge.goal, figures)[0] < np.log(0.5)
    assert cannot_win(judge.goal, figures, []) == ""


def test_the_goal_has_the_floors_that_the_gate_will_have(simple: Assessor) -> None:
    assert [one.text for one in simple.goal.require] == ["agreement >= 0.9", "sqnr >= 15 dB"]


def test_the_original_beside_itself_has_no_fault(judge: Assessor) -> None:
    figures = judge.original_figures()
    agreement = measured(figures, FigureName.AGREEMENT, "noise 0.05")
    assert agreement is not None
    assert agreement.value.value == 1
    assert agreement.samples == 500
    accuracy = measured(figures, FigureName.ACCURACY)
    assert accuracy is not None
    assert accuracy.difference is not None
    assert accuracy.difference.value == 0


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (faults.nan_on_a_rare_input, "not a finite number"),
        (faults.only_a_label, "callers would notice"),
        (faults.infinite_weight, "NaN or infinity"),
        (faults.conversions_that_do_not_fuse, "only costs time"),
        (faults.infinite_in_company, "not a finite number"),
    ],
)
def test_a_broken_candidate_is_told_as_broken(
    simple: Assessor, home: Path, tmp_path: Path, fault: faults.Fault, text: str
) -> None:
    broken = faults.planted(home / "original.onnx", tmp_path / "broken.onnx", fault)
    structure = simple.structure(broken, SESSION)
    said = structure.broken or simple.answers(broken, SESSION).broken
    assert text in said


def test_a_file_that_is_no_model_is_broken_and_ends_nothing(
    simple: Assessor, tmp_path: Path
) -> None:
    nothing = tmp_path / "nothing.onnx"
    nothing.write_bytes(b"\x08\x09garbage")
    assert "does not load" in simple.structure(nothing, SESSION).broken
    assert "could not be run" in simple.answers(nothing, SESSION).broken


def test_wrong_answers_are_a_violation(simple: Assessor, home: Path, tmp_path: Path) -> None:
    wrong = faults.planted(home / "int8.onnx", tmp_path / "wrong.onnx", faults.swapped_outputs)
    got = simple.answers(wrong, SESSION)
    assert got.broken == ""
    agreement = found(got, FigureName.AGREEMENT).value
    assert agreement.lower is not None
    figures = (*simple.structure(wrong, SESSION).figures, *got.figures)
    of_agreement = (0.9 - agreement.lower) / 0.9
    assert violation(simple.goal, figures) > of_agreement > 0.2


def test_a_slower_candidate_is_seen_through_soon(home: Path, tmp_path: Path) -> None:
    slow = faults.planted(home / "original.onnx", tmp_path / "slow.onnx", faults.slow_node)
    goal = Goal(require=(parse_requirement("latency_p50 <= 5 % worse"),))
    with assessor(home, goal, home / "search.npz", timing_s=20) as judge:
        got = judge.structure(slow, SESSION)
        latency = found(got, FigureName.LATENCY_P50)
        assert latency.samples == LOOKS[0], "the first look settles it"
        assert "'latency_p50 <= 5 % worse' cannot be met" in cannot_win(judge.goal, got.figures, [])


def test_a_machine_that_others_use_gives_no_figure_and_no_verdict(home: Path) -> None:
    calls = iter(range(10**6))

    def busy() -> Usage:
        now = float(next(calls))
        return Usage(clock=now, busy=2 * now, stolen=0.0, own=0.0, processors=2)

    terms = Terms(
        original=home / "original.onnx",
        original_session=SESSION,
        goal=Goal(),
        task=Task.CLASSIFICATION,
        data=home / "search.npz",
        host=this_host(2),
        timing_s=0.5,
    )
    with Assessor(terms, busy) as judge:
        got = judge.structure(home / "int8.onnx", SESSION)
        assert got.broken == ""
        assert {figure.name for figure in got.figures} == {FigureName.SIZE}
        assert "others used the machine" in got.missing[FigureName.LATENCY_P50]
        assert violation(judge.goal, got.figures, whole=False) == 0


def test_cost_is_processor_seconds_times_their_price(home: Path) -> None:
    goal = Goal(optimize=(FigureName.COST,))
    with assessor(home, goal, home / "search.npz", price=250.0) as judge:
        got = judge.structure(home / "int8.onnx", SESSION)
    cost, throughput = found(got, FigureName.COST), found(got, FigureName.THROUGHPUT)
    assert cost.unit == "/1000"
    busy = cost.value.value / 250.0 * throughput.value.value / 1000
    assert 0.3 < busy < 3.5, "processors that two lanes keep busy"


def test_memory_is_weighed_where_the_goal_names_it(home: Path) -> None:
    goal = Goal(optimize=(FigureName.MEMORY,), confidence=0.5)
    with assessor(home, goal, None) as judge:
        got = judge.structure(home / "int8.onnx", SESSION)
        assert got.broken == ""
        memory = found(got, FigureName.MEMORY)
        assert memory.original is not None
        assert memory.original.value > 0
        assert memory.value.upper is not None
        assert set(judge.answers(home / "int8.onnx", SESSION).missing) == {
            *(FigureName.AGREEMENT, FigureName.SQNR),
        }


def test_a_goal_under_something_that_cannot_be_done_is_refused_at_once(home: Path) -> None:
    goal = Goal(require=(parse_requirement("agreement under shift 1 >= 0.9"),))
    with pytest.raises(InvalidData, match="shift 1"):
        assessor(home, goal, home / "search.npz")


def test_runs_that_are_long_get_the_time_that_a_bound_takes(tmp_path: Path) -> None:
    original = models.slow(tmp_path / "slow.onnx", width=256, rounds=150)
    terms = Terms(
        original=original,
        original_session=SessionSpec(),
        goal=Goal(optimize=(FigureName.LATENCY_P99,)),
        task=Task.OTHER,
        data=None,
        host=this_host(1),
        timing_s=0.5,
    )
    with Assessor(terms, undisturbed) as judge:
        got = judge.structure(original, SessionSpec())
    tail = found(got, FigureName.LATENCY_P99)
    assert tail.ratio is not None
    assert tail.ratio.upper is not None, tail
