"""Bad variants are refused for what is wrong with them; good ones are proved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from optimizers.contract.difference import INCOMPARABLE
from optimizers.contract.digests import file_sha256
from optimizers.contract.errors import InvalidData
from optimizers.contract.evaluation import Evaluation, Gate, Verdict
from optimizers.contract.goal import FigureName, Goal, parse_requirement
from optimizers.contract.host import this_host
from optimizers.contract.manifest import (
    MANIFEST_FILE,
    Manifest,
    manifest_to_json,
    read_manifest,
)
from optimizers.contract.profile import Task
from optimizers.contract.quantization import DynamicInt8, Fp16, StaticInt8
from optimizers.contract.recipe import Recipe
from optimizers.contract.runtime import Feeds, SessionSpec
from optimizers.contract.signature import Signature
from optimizers.contract.steps import Step
from optimizers.evaluation import speed
from optimizers.evaluation.footprint import Footprint, measure_footprint
from optimizers.evaluation.gates import Judgement, judge
from optimizers.evaluation.quiet import Usage
from optimizers.evaluation.series import Timing, Unstable
from optimizers.evaluation.subject import Subject
from optimizers.step import StepContext
from optimizers.techniques import apply_step
from tests.support import faults, models
from tests.support.data import write_data

pytestmark = pytest.mark.alone  # times are measured

SESSION = SessionSpec(lanes=2, max_batch=8)
GOAL = Goal(
    optimize=(FigureName.SIZE,),
    require=(
        parse_requirement("agreement >= 0.9"),
        parse_requirement("accuracy <= 4 points worse"),
        parse_requirement("latency_p50 <= 100 % worse"),
    ),
)
SMALLER = Goal(optimize=(FigureName.SIZE,))
TASKS = {"regression": Task.REGRESSION, "embedding": Task.EMBEDDING}
# Shorter windows and wider limits than in earnest: differences here are large or do not matter.
ROUGH = Timing(window_s=0.01, precise=0.3, unstable=0.6)


def undisturbed() -> Usage:
    """Other people use this machine while the suite runs; that is not what is tested here."""
    return Usage(clock=0.0, busy=0.0, stolen=0.0, own=0.0, processors=2)


@pytest.fixture(scope="module", autouse=True)
def weighed_once() -> Iterator[None]:
    """A model's footprint is measured in earnest, but once for all tests of this module."""
    known: dict[tuple[str, SessionSpec], Footprint] = {}

    def measure_once(path: Path, spec: SessionSpec, feeds: Feeds) -> Footprint:
        key = (file_sha256(path), spec)
        if key not in known:
            known[key] = measure_footprint(path, spec, feeds)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "measure_footprint", measure_once)
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four networks with their data."""
    folder = tmp_path_factory.mktemp("gates")
    for name, outputs, items in (
        ("perceptron", 4, 600),
        ("regression", 8, 600),
        ("embedding", 32, 1500),
    ):
        path = models.perceptron(folder / f"{name}.onnx", sizes=(16, 128, 128, outputs))
        write_data(folder / name, path, gate_items=items)
    path = models.convolutional(folder / "convolutional.onnx", channels=64)
    write_data(folder / "convolutional", path, gate_items=600)
    return folder


def subject(home: Path, name: str, variant: Path, goal: Goal = GOAL) -> Subject:
    return Subject(
        original=home / f"{name}.onnx",
        original_session=SESSION,
        variant=variant,
        session=SESSION,
        goal=goal,
        task=TASKS.get(name, Task.CLASSIFICATION),
        gate_data=home / name / "gate.npz",
        gate_sha256="0" * 64,
        gate_use=1,
        host=this_host(2),
        seed=0,
        measure_timeout_s=120,
        timing=ROUGH,
    )


def judged(subject: Subject) -> Judgement:
    return judge(subject, lambda stage, share, text: None, undisturbed)


def text_of(evaluation: Evaluation, gate: Gate) -> str:
    return "; ".join(check.text for check in evaluation.checks if check.gate is gate)


def quantised(home: Path, name: str, step: Step, work: Path) -> Path:
    work.mkdir(parents=True, exist_ok=True)
    context = StepContext(
        work_directory=work,
        original=home / f"{name}.onnx",
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
    "a lost bias": (faults.lost_bias, Gate.FIDELITY),
    "a favoured class": (faults.favoured_class, Gate.ACCURACY),
    "a lost activation": (faults.lost_activation, Gate.FIDELITY),
    "a constant answer": (faults.constant_answer, Gate.FIDELITY),
    "saturated answers": (faults.saturated, Gate.FIDELITY),
    "answers that depend on neighbours": (faults.depends_on_neighbours, Gate.FIDELITY),
    "right alone, wrong in company": (faults.wrong_in_company, Gate.FIDELITY),
    "43 % of answers times 100": (faults.some_a_hundredfold, Gate.FIDELITY),
    "a renamed output": (faults.renamed_output, Gate.LINT),
    "an infinite weight": (faults.infinite_weight, Gate.LINT),
    "a slow node": (faults.slow_node, Gate.LATENCY),
}


INT8 = DynamicInt8(per_channel=False)
SOUND = {"a favoured class": Fp16()}
"""What a fault is planted in that is too fine beside what integer kernels lose."""


@pytest.mark.parametrize("name", BAD)
def test_a_planted_fault_is_refused(home: Path, tmp_path: Path, name: str) -> None:
    fault, gate = BAD[name]
    sound = quantised(home, "perceptron", SOUND.get(name, INT8), tmp_path / "work")
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
    "static, unsigned": ("perceptron", StaticInt8(scheme="u8u8", per_channel=False)),
    "static, first layer left alone": ("perceptron", StaticInt8(skip_first=True)),
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


def test_answers_alone_do_not_prove_how_a_callers_own_rows_fare(home: Path, tmp_path: Path) -> None:
    """Served unbatched, a request of several rows is one run all the same."""
    original = home / "perceptron.onnx"
    variant = faults.planted(original, tmp_path / "variant.onnx", faults.wrong_in_company)
    for most in (1, 8):
        session = replace(SESSION, max_batch=most)
        asked = replace(subject(home, "perceptron", variant, SMALLER), session=session)
        evaluation = judged(replace(asked, original=heavy(original, tmp_path))).evaluation
        assert evaluation.verdict is Verdict.REFUSED
        assert broken_gate(evaluation) is Gate.FIDELITY
        said = text_of(evaluation, Gate.INVARIANCE)
        assert "no strangers share a run; a caller's own rows were judged together too" in said


@pytest.mark.parametrize("name", TASKS)
def test_a_task_without_classes_is_judged_by_its_floors(
    home: Path, tmp_path: Path, name: str
) -> None:
    sound = quantised(home, name, DynamicInt8(), tmp_path / "work")
    evaluation = judged(subject(home, name, sound, SMALLER)).evaluation
    assert evaluation.verdict is Verdict.PROVED, evaluation.reasons
    for fault in (faults.some_a_hundredfold, faults.all_a_fifth_larger):
        variant = faults.planted(sound, tmp_path / f"{fault.__name__}.onnx", fault)
        evaluation = judged(subject(home, name, variant, SMALLER)).evaluation
        assert evaluation.verdict is Verdict.REFUSED
        assert "sqnr" in evaluation.reasons[0]


def test_every_number_of_an_evaluation_survives_its_file(home: Path, tmp_path: Path) -> None:
    """JSON knows no infinity: it would come back as null and make the variant unreadable."""
    original = home / "perceptron.onnx"
    variant = faults.planted(original, tmp_path / "variant.onnx", faults.infinite_in_company)
    asked = subject(home, "perceptron", variant, Goal(optimize=(FigureName.COST,)))
    judgement = judged(asked)
    assert judgement.evaluation.verdict is Verdict.REFUSED
    assert "in a batch, is not a finite number" in judgement.evaluation.reasons[0]
    assert judgement.batch_difference == {"logits": INCOMPARABLE}
    manifest = Manifest(
        variant="",
        model="net",
        version=1,
        original_sha256="",
        original_file="net.onnx",
        recipe=Recipe(),
        session=judgement.session,
        signature=Signature(inputs=(), outputs=()),
        created_unix_s=1.0,
        evaluation=judgement.evaluation,
        largest_batch_difference=judgement.batch_difference,
    )
    (tmp_path / MANIFEST_FILE).write_bytes(manifest_to_json(manifest))
    assert read_manifest(tmp_path / MANIFEST_FILE) == manifest


def heavy(model: Path, folder: Path, *changes: faults.Fault) -> Path:
    """The same model with a weight that nothing uses, so that anything else is smaller."""
    loaded = onnx.load(str(model))
    for change in changes:
        change(loaded)
    weight = np.random.default_rng(0).random(100_000, np.float32)
    loaded.graph.initializer.append(onnx.numpy_helper.from_array(weight, "unused"))
    onnx.save(loaded, str(folder / "heavy.onnx"))
    return folder / "heavy.onnx"


@pytest.mark.parametrize(
    ("task", "right", "wrong"),
    [
        (Task.CLASSIFICATION, faults.right_label, faults.wrong_label),
        (Task.OTHER, faults.only_a_label, faults.only_a_wrong_label),
    ],
)
def test_whole_numbers_must_agree(
    home: Path, tmp_path: Path, task: Task, right: faults.Fault, wrong: faults.Fault
) -> None:
    def evaluation_of(fault: faults.Fault) -> Evaluation:
        variant = faults.planted(home / "perceptron.onnx", tmp_path / "variant.onnx", fault)
        asked = subject(home, "perceptron", variant, SMALLER)
        return judged(replace(asked, original=original, task=task)).evaluation

    original = heavy(home / "perceptron.onnx", tmp_path, right)
    assert evaluation_of(right).verdict is Verdict.PROVED
    evaluation = evaluation_of(wrong)
    assert evaluation.verdict is Verdict.REFUSED
    assert "agreement >= 0.95" in evaluation.reasons[0]
    figure = evaluation.figure(FigureName.AGREEMENT)
    assert figure is not None
    assert (figure.value.value, figure.samples) == (0.0, 600)
    assert "output 'label'" in figure.method


def test_what_too_few_items_cannot_show_is_not_held_against_a_variant(
    home: Path, tmp_path: Path
) -> None:
    """600 items without a fault bound a cosine of 0.99 no better than 0.98."""
    original = heavy(home / "perceptron.onnx", tmp_path)
    asked = subject(home, "perceptron", home / "perceptron.onnx", SMALLER)
    evaluation = judged(replace(asked, original=original, task=Task.OTHER)).evaluation
    assert evaluation.verdict is Verdict.NOT_JUDGED
    [reason] = evaluation.reasons
    assert reason == ("'cosine >= 0.99' could not be judged: 600 items, at least 1071 are needed")


def test_minus_infinity_where_the_original_has_it_is_no_fault(home: Path, tmp_path: Path) -> None:
    original = heavy(home / "perceptron.onnx", tmp_path, faults.masked)
    variant = faults.planted(home / "perceptron.onnx", tmp_path / "variant.onnx", faults.masked)
    asked = replace(subject(home, "perceptron", variant, SMALLER), original=original)
    evaluation = judged(asked).evaluation
    assert evaluation.verdict is Verdict.PROVED, evaluation.reasons
    figure = evaluation.figure(FigureName.SQNR)
    assert figure is not None
    assert figure.value.value == 200


def judged_up_to_fidelity(
    home: Path, tmp_path: Path, requirements: tuple[str, ...], name: str = "perceptron"
) -> Evaluation:
    """Of a variant with every class right but too much noise, so that nothing is timed."""
    variant = faults.planted(
        home / f"{name}.onnx", tmp_path / "variant.onnx", faults.all_a_fifth_larger
    )
    goal = Goal(
        optimize=(FigureName.COST,), require=tuple(parse_requirement(one) for one in requirements)
    )
    return judged(subject(home, name, variant, goal)).evaluation


def test_alpha_is_shared_by_all_that_is_judged_by_a_bound(home: Path, tmp_path: Path) -> None:
    """Two requirements on one figure spend twice: (1 - 0.95) / 2 / (aim + 2 + sqnr's floor)."""
    evaluation = judged_up_to_fidelity(home, tmp_path, ("agreement >= 0.9", "agreement >= 0.8"))
    figure = evaluation.figure(FigureName.AGREEMENT)
    assert figure is not None
    assert figure.value.lower == pytest.approx(0.00625 ** (1 / 600))


def test_a_requirement_says_what_the_model_lacks_for_it(home: Path, tmp_path: Path) -> None:
    asked = ("agreement >= 0.9", "sqnr >= 20 dB")
    evaluation = judged_up_to_fidelity(home, tmp_path, asked, "regression")
    said = text_of(evaluation, Gate.FIDELITY)
    assert "could not be judged: the task is regression; declare task: classification" in said


def test_a_classifier_without_scores_says_so(home: Path, tmp_path: Path) -> None:
    original = heavy(home / "perceptron.onnx", tmp_path, faults.only_a_label)
    variant = faults.planted(
        home / "perceptron.onnx", tmp_path / "variant.onnx", faults.only_a_label
    )
    goal = replace(SMALLER, require=(parse_requirement("accuracy <= 1 point worse"),))
    asked = replace(subject(home, "perceptron", variant, goal), original=original)
    [reason] = judged(asked).evaluation.reasons
    assert "the model has no single score output" in reason


def test_progress_is_told_in_order(home: Path, tmp_path: Path) -> None:
    variant = quantised(home, "perceptron", DynamicInt8(), tmp_path / "work")
    told: list[tuple[str, float]] = []
    judge(
        subject(home, "perceptron", variant, SMALLER),
        lambda stage, share, text: told.append((stage, share)),
        undisturbed,
    )
    assert list(dict.fromkeys(stage for stage, _ in told)) == [
        *("lint", "the original's answers", "fidelity", "batch invariance"),
        *("latency", "latency in batches", "throughput", "memory"),
    ]
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert 0 <= min(shares) <= max(shares) <= 1


def test_only_what_the_goal_asks_for_needs_a_quiet_machine(home: Path, tmp_path: Path) -> None:
    clock = iter(range(10**9))

    def restless() -> Usage:
        seconds = float(next(clock))
        return Usage(clock=seconds, busy=2 * seconds, stolen=0.0, own=0.0, processors=2)

    def judged_beside_others(goal: Goal) -> Evaluation:
        asked = replace(subject(home, "perceptron", variant, goal), measure_timeout_s=0.5)
        return judge(asked, lambda stage, share, text: None, restless).evaluation

    variant = quantised(home, "perceptron", DynamicInt8(), tmp_path / "work")
    with pytest.raises(Unstable, match="others used the machine"):
        judged_beside_others(Goal(optimize=(FigureName.LATENCY_P50,)))
    evaluation = judged_beside_others(SMALLER)
    assert evaluation.verdict is Verdict.PROVED, evaluation.reasons
    assert evaluation.figure(FigureName.LATENCY_P50) is None, "nothing is guessed"
    assert "latency is not known, and the goal does not ask for it" in text_of(
        evaluation, Gate.LATENCY
    )


def test_gate_data_that_the_original_cannot_answer_is_invalid(home: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "odd.npz", x=np.zeros((8, 17), np.float32))
    asked = replace(
        subject(home, "perceptron", home / "perceptron.onnx"), gate_data=tmp_path / "odd.npz"
    )
    with pytest.raises(InvalidData, match=r"'x' has shape \[8, 17\]"):
        judged(asked)


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
    variant = faults.planted(
        home / "perceptron.onnx", tmp_path / "variant.onnx", faults.all_a_fifth_larger
    )
    bounds = []
    for use in (1, 6):
        asked = replace(subject(home, "perceptron", variant, Goal()), gate_use=use)
        figure = judged(asked).evaluation.figure(FigureName.AGREEMENT)
        assert figure is not None
        assert figure.value.lower is not None
        bounds.append(figure.value.lower)
    assert bounds[1] < bounds[0]
