"""Bad variants are refused for what is wrong with them; good ones are proved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from optimizers.contract.evaluation import Evaluation, Gate, Verdict
from optimizers.contract.goal import FigureName, Goal, parse_requirement
from optimizers.contract.host import this_host
from optimizers.contract.profile import Task
from optimizers.contract.runtime import SessionSpec
from optimizers.contract.steps import DynamicInt8, StaticInt8, Step
from optimizers.evaluation import latency
from optimizers.evaluation.gates import Judgement, Subject, judge
from optimizers.pipeline import apply_step
from optimizers.step import StepContext
from tests.support import faults, models
from tests.support.data import write_data

SIZES = (16, 128, 128, 4)
SESSION = SessionSpec(lanes=2, max_batch=8)
GOAL = Goal(
    optimize=(FigureName.SIZE,),
    require=(
        parse_requirement("agreement >= 0.9"),
        parse_requirement("accuracy <= 5 points worse"),
        parse_requirement("latency_p50 <= 100 % worse"),
    ),
)


@pytest.fixture(autouse=True)
def short_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same measuring in shorter windows: differences here are large or do not matter."""
    monkeypatch.setattr(latency, "WINDOW_S", 0.01)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A perceptron and a convolutional net with their data."""
    folder = tmp_path_factory.mktemp("gates")
    for name, path in (
        ("perceptron", models.perceptron(folder / "perceptron.onnx", sizes=SIZES)),
        ("convolutional", models.convolutional(folder / "convolutional.onnx", channels=64)),
    ):
        write_data(folder / name, path, gate_items=600)
    return folder


def subject(home: Path, name: str, variant: Path, goal: Goal = GOAL) -> Subject:
    return Subject(
        original=home / f"{name}.onnx",
        original_session=SESSION,
        variant=variant,
        session=SESSION,
        goal=goal,
        task=Task.CLASSIFICATION,
        gate_data=home / name / "gate.npz",
        gate_sha256="0" * 64,
        gate_use=1,
        host=this_host(2),
        seed=0,
        measure_timeout_s=120,
    )


def judged(subject: Subject) -> Judgement:
    return judge(subject, lambda stage, share, text: None)


def quantised(home: Path, name: str, step: Step, work: Path) -> Path:
    work.mkdir(parents=True, exist_ok=True)
    context = StepContext(
        work_directory=work,
        host=this_host(2),
        session=SESSION,
        goal=GOAL,
        task=Task.CLASSIFICATION,
        data={"calibration": home / name / "calibration.npz"},
        seed=0,
        report=lambda share, text: None,
    )
    return apply_step(home / f"{name}.onnx", step, context).model


def broken_gate(evaluation: Evaluation) -> Gate:
    return next(check.gate for check in evaluation.checks if check.passed is False)


BAD: dict[str, tuple[faults.Fault, Gate]] = {
    "flipped weight bits": (faults.flipped_bits, Gate.FIDELITY),
    "a scale times 1.2": (faults.scale_too_large, Gate.FIDELITY),
    "swapped outputs": (faults.swapped_outputs, Gate.FIDELITY),
    "NaN on a rare input": (faults.nan_on_a_rare_input, Gate.FIDELITY),
    "a lost bias": (faults.lost_bias, Gate.ACCURACY),
    "a lost activation": (faults.lost_activation, Gate.FIDELITY),
    "a constant answer": (faults.constant_answer, Gate.FIDELITY),
    "saturated answers": (faults.saturated, Gate.FIDELITY),
    "answers that depend on neighbours": (faults.depends_on_neighbours, Gate.FIDELITY),
    "a renamed output": (faults.renamed_output, Gate.LINT),
    "an infinite weight": (faults.infinite_weight, Gate.LINT),
    "a slow node": (faults.slow_node, Gate.LATENCY),
}


@pytest.mark.parametrize("name", BAD)
def test_a_planted_fault_is_refused(home: Path, tmp_path: Path, name: str) -> None:
    fault, gate = BAD[name]
    sound = quantised(home, "perceptron", DynamicInt8(per_channel=False), tmp_path / "work")
    variant = faults.planted(sound, tmp_path / "variant.onnx", fault)
    evaluation = judged(subject(home, "perceptron", variant)).evaluation
    assert evaluation.verdict is Verdict.REFUSED, evaluation.reasons
    assert broken_gate(evaluation) is gate, evaluation.reasons
    assert evaluation.reasons


def test_conversions_that_no_integer_kernel_reads_are_refused(home: Path, tmp_path: Path) -> None:
    variant = faults.planted(
        home / "perceptron.onnx", tmp_path / "variant.onnx", faults.conversions_that_do_not_fuse
    )
    evaluation = judged(subject(home, "perceptron", variant)).evaluation
    assert (evaluation.verdict, broken_gate(evaluation)) == (Verdict.REFUSED, Gate.LINT)
    assert "behind DequantizeLinear" in evaluation.reasons[0]


GOOD: dict[str, tuple[str, Step]] = {
    "dynamic, per channel": ("perceptron", DynamicInt8()),
    "dynamic, per tensor": ("perceptron", DynamicInt8(per_channel=False)),
    "dynamic, seven bits": ("perceptron", DynamicInt8(reduce_range=True)),
    "dynamic, one node left alone": ("perceptron", DynamicInt8(exclude=("matmul0",))),
    "static, extremes": ("perceptron", StaticInt8()),
    "static, percentile": ("perceptron", StaticInt8(calibration="percentile")),
    "static, entropy": ("perceptron", StaticInt8(calibration="entropy")),
    "static, signed": ("perceptron", StaticInt8(scheme="s8s8")),
    "static, convolution": ("convolutional", StaticInt8()),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_sound_variant_is_proved(home: Path, tmp_path: Path, name: str) -> None:
    model, step = GOOD[name]
    goal = replace(GOAL, require=(*GOAL.require[:2], parse_requirement("latency_p50 <= 5 ms")))
    variant = quantised(home, model, step, tmp_path / "work")
    judgement = judged(subject(home, model, variant, goal))
    evaluation = judgement.evaluation
    assert evaluation.verdict is Verdict.PROVED, evaluation.reasons
    named = {figure.name for figure in evaluation.figures}
    assert named >= {
        FigureName.SIZE,
        FigureName.AGREEMENT,
        FigureName.ACCURACY,
        FigureName.LATENCY_P50,
        FigureName.LATENCY_P99,
        FigureName.THROUGHPUT,
        FigureName.MEMORY,
    }
    if isinstance(step, DynamicInt8):
        assert judgement.session.max_batch == 1, "dynamic int8 scales by its neighbours"


@pytest.mark.parametrize("aim", [FigureName.LATENCY_P50, FigureName.THROUGHPUT])
def test_a_variant_without_the_slow_node_is_proved_faster(
    home: Path, tmp_path: Path, aim: FigureName
) -> None:
    slow = faults.planted(home / "perceptron.onnx", tmp_path / "slow.onnx", faults.slow_node)
    goal = Goal(optimize=(aim,), require=(parse_requirement("agreement >= 0.98"),))
    asked = replace(subject(home, "perceptron", home / "perceptron.onnx", goal), original=slow)
    evaluation = judged(asked).evaluation
    assert evaluation.verdict is Verdict.PROVED, evaluation.reasons
    figure = evaluation.figure(aim)
    assert figure is not None
    assert figure.ratio is not None
    assert figure.ratio.value < 0.8 if aim is FigureName.LATENCY_P50 else figure.ratio.value > 1.2


def test_the_original_is_not_better_than_itself(home: Path) -> None:
    goal = Goal(optimize=(FigureName.LATENCY_P50,))
    evaluation = judged(subject(home, "perceptron", home / "perceptron.onnx", goal)).evaluation
    assert evaluation.verdict is Verdict.REFUSED
    assert "not better than the original's" in evaluation.reasons[0]


def test_without_gate_data_nothing_is_proved(home: Path, tmp_path: Path) -> None:
    variant = quantised(home, "perceptron", DynamicInt8(), tmp_path / "work")
    goal = Goal(optimize=(FigureName.SIZE,))
    asked = replace(subject(home, "perceptron", variant, goal), gate_data=None, gate_sha256="")
    judgement = judged(asked)
    assert judgement.evaluation.verdict is Verdict.NOT_JUDGED
    assert "no gate data is declared" in judgement.evaluation.reasons[0]
    assert judgement.session.max_batch == 1


def test_a_requirement_on_accuracy_needs_labels(home: Path, tmp_path: Path) -> None:
    variant = quantised(home, "perceptron", DynamicInt8(), tmp_path / "work")
    with np.load(home / "perceptron/gate.npz") as stored:
        np.savez(tmp_path / "unlabelled.npz", x=stored["x"])
    asked = replace(subject(home, "perceptron", variant), gate_data=tmp_path / "unlabelled.npz")
    evaluation = judged(asked).evaluation
    assert evaluation.verdict is Verdict.NOT_JUDGED
    assert "declare data.gate with `labels`" in evaluation.reasons[0]


def test_a_later_look_at_the_same_gate_data_is_judged_more_strictly(
    home: Path, tmp_path: Path
) -> None:
    variant = quantised(home, "perceptron", DynamicInt8(), tmp_path / "work")
    bounds = []
    goal = replace(GOAL, require=(parse_requirement("agreement >= 0.999"),))
    for use in (1, 6):
        asked = replace(subject(home, "perceptron", variant, goal), gate_use=use)
        figure = judged(asked).evaluation.figure(FigureName.AGREEMENT)
        assert figure is not None
        bounds.append(figure.value.lower)
    assert bounds[0] is not None
    assert bounds[1] is not None
    assert bounds[1] < bounds[0]
