"""What is called impossible is: checked against what the steps really make of real models."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizers.contract.architecture import LowRank
from optimizers.contract.declaration import Choice
from optimizers.contract.evaluation import Figure
from optimizers.contract.evidence import Evidence, Layer
from optimizers.contract.goal import FigureName, Goal, parse_requirement
from optimizers.contract.host import this_host
from optimizers.contract.onnx_file import read_onnx_file
from optimizers.contract.profile import Task
from optimizers.contract.pruning import PruneChannels
from optimizers.contract.quantization import Binarize, DynamicInt8, StaticInt8, WeightsNbits
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.contract.samples import random_feeds
from optimizers.contract.search import Search
from optimizers.contract.steps import Step, step_name
from optimizers.pruning.groups import Group
from optimizers.search.assessment import Assessor, Terms
from optimizers.search.satisfiable import unsatisfiable
from optimizers.search.smallest import smallest_weights
from optimizers.step import StepContext
from optimizers.techniques import apply_step
from tests.support import models
from tests.support.data import write_data

pytestmark = pytest.mark.alone  # times are measured

SESSION = SessionSpec()
BARE = Evidence(
    operators=(),
    layers=(),
    weight_bytes=0,
    embedding_bytes=0,
    activation_bytes=1024,
    item_s=1e-4,
    batch_item_s=1e-4,
    batch=1,
    outside_share=0.1,
    attention_heads=(),
    residual_blocks=0,
    has_batch_norm=False,
    task=Task.CLASSIFICATION,
    host=this_host(1),
    provider="cpu",
    data={"calibration": 64, "train": 200, "search": 300},
    has_labels=True,
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("satisfiable")
    for name, path in (
        ("perceptron", models.perceptron(folder / "perceptron.onnx", sizes=(16, 128, 128, 4))),
        ("convolutional", models.convolutional(folder / "convolutional.onnx", channels=64)),
    ):
        write_data(folder / name, path, gate_items=300)
        (folder / name / "gate.npz").rename(folder / name / "search.npz")
    models.identity(folder / "identity.onnx", onnx.TensorProto.FLOAT)
    return folder


def evidence_of(home: Path, name: str) -> Evidence:
    """Weights as they stand in the file; times against those of a model that does nothing."""
    graph = onnx.load(str(home / f"{name}.onnx")).graph
    weights = {one.name: one for one in graph.initializer}
    layers = [
        Layer(
            name=node.name or node.output[0],
            operator=node.op_type,
            weight_shape=tuple(weights[node.input[1]].dims),
            groups=1,
            share=0.1,
        )
        for node in graph.node
        if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1] in weights
    ]
    assert layers
    item_s, empty_s = (seconds(home / f"{one}.onnx") for one in (name, "identity"))
    return replace(
        BARE,
        layers=tuple(layers),
        weight_bytes=sum(4 * int(np.prod(one.dims)) for one in graph.initializer),
        item_s=item_s,
        batch_item_s=item_s,
        outside_share=min(1.0, empty_s / item_s),
    )


def seconds(model: Path) -> float:
    with closing(Session(model, SESSION)) as session:
        feeds = random_feeds(session.signature, 1)
        took = []
        for _ in range(200):
            start = time.perf_counter()
            session.run(feeds)
            took.append(time.perf_counter() - start)
    return float(np.median(took))


def goal_of(*require: str) -> Goal:
    return Goal(
        optimize=(FigureName.SIZE,), require=tuple(parse_requirement(one) for one in require)
    )


def original_of(home: Path, name: str, goal: Goal, data: bool = True) -> tuple[Goal, list[Figure]]:
    terms = Terms(
        original=home / f"{name}.onnx",
        original_session=SESSION,
        goal=goal,
        task=Task.CLASSIFICATION,
        data=home / name / "search.npz" if data else None,
        host=this_host(1),
    )
    with Assessor(terms) as assessor:
        return assessor.goal, list(assessor.original_figures())


def impossible(home: Path, name: str, *require: str, search: Search | None = None) -> list[str]:
    goal, original = original_of(home, name, goal_of(*require))
    found = unsatisfiable(goal, evidence_of(home, name), original, search)
    return [sentence.split("'")[1] for sentence in found]


@pytest.mark.parametrize("name", ["perceptron", "convolutional"])
def test_what_can_be_met_is_not_called_impossible(home: Path, name: str) -> None:
    possible = (
        *("size >= 75 % better", "memory <= 200 MiB", "latency_p50 <= 10 % worse"),
        *("agreement >= 0.95", "accuracy <= 2 points worse", "accuracy under noise 0.1 >= 0.5"),
        *("sqnr >= 30 dB", "throughput >= 2 /s", "cost <= 100"),
    )
    assert impossible(home, name, *possible) == []


@pytest.mark.parametrize("name", ["perceptron", "convolutional"])
def test_what_nothing_can_meet_is_said_with_its_numbers(home: Path, name: str) -> None:
    hopeless = (
        *("size <= 2 kB", "latency_p50 <= 0.01 us", "agreement >= 1.01", "sqnr >= 300 dB"),
        *("accuracy >= 3 points better", "agreement >= 0.9999", "memory <= 2 kB"),
        *("latency_p50 >= 100 % better", "accuracy <= 1 % worse", "agreement >= 1"),
    )
    search = Search(steps=("dynamic_int8", "static_int8"))
    assert impossible(home, name, *hopeless, search=search) == list(hopeless)
    goal, original = original_of(home, name, goal_of("agreement >= 0.999"))
    [said] = unsatisfiable(goal, evidence_of(home, name), original)
    assert "300 items, at least" in said


def test_a_run_that_is_mostly_launching_cannot_be_ten_times_as_fast(home: Path) -> None:
    known = replace(evidence_of(home, "perceptron"), item_s=10e-6, outside_share=0.8)
    goal = goal_of("latency_p50 >= 90 % better", "latency_p50 >= 50 % better")
    goal, original = original_of(home, "perceptron", goal)
    [said] = unsatisfiable(goal, known, original)
    assert said == (
        "'latency_p50 >= 90 % better' cannot be met: of 10 µs a run spends 8 µs outside of its "
        "nodes, of which at least 4 µs stay whatever becomes of these"
    )


def test_a_file_that_is_too_small_for_the_fewest_bits_is_told(home: Path) -> None:
    goal, original = original_of(home, "perceptron", goal_of("size <= 18 kB"))
    known, search = evidence_of(home, "perceptron"), Search(steps=("simplify", "dynamic_int8"))
    [said] = unsatisfiable(goal, known, original, search)
    assert said == (
        "'size <= 18 kB' cannot be met: its weights take 75.0 KiB and at least 18.5 KiB after any "
        "recipe (fewest bits by dynamic_int8)"
    )


def test_what_would_only_end_a_search_early_is_no_requirement(home: Path) -> None:
    goal = replace(Goal(), stop_when=(parse_requirement("latency_p50 <= 0.01 us"),))
    goal, original = original_of(home, "perceptron", goal)
    assert unsatisfiable(goal, evidence_of(home, "perceptron"), original) == ()


def test_without_search_data_nothing_can_be_said_of_answers(home: Path) -> None:
    goal, original = original_of(home, "perceptron", goal_of("size <= 50 kB"), data=False)
    known = replace(evidence_of(home, "perceptron"), data={})
    found = unsatisfiable(goal, known, original)
    assert len(found) == 2, "the floors under agreement and sqnr"
    assert all("data.search" in one for one in found)


def test_an_aim_that_only_compares_can_never_be_proved(home: Path) -> None:
    goal, original = original_of(home, "perceptron", Goal(optimize=(FigureName.AGREEMENT,)))
    [said] = unsatisfiable(goal, evidence_of(home, "perceptron"), original)
    assert "name something else first" in said


@pytest.mark.parametrize(
    "aims",
    [(FigureName.ACCURACY,), (FigureName.SIZE, FigureName.ACCURACY)],
    ids=["first", "second"],
)
def test_an_aim_that_cannot_be_measured_is_told(
    home: Path, tmp_path: Path, aims: tuple[FigureName, ...]
) -> None:
    with np.load(home / "perceptron" / "search.npz") as arrays:
        unlabelled = {name: array for name, array in arrays.items() if name != "labels"}
    np.savez(tmp_path / "search.npz", **unlabelled)
    terms = Terms(
        original=home / "perceptron.onnx",
        original_session=SESSION,
        goal=Goal(optimize=aims),
        task=Task.CLASSIFICATION,
        data=tmp_path / "search.npz",
        host=this_host(1),
    )
    with Assessor(terms) as assessor:
        goal, original = assessor.goal, assessor.original_figures()
    assert unsatisfiable(goal, evidence_of(home, "perceptron"), original) == (
        "accuracy cannot be optimised: this model's answers have no accuracy with task "
        "classification, or the data has no labels",
    )


STEPS: list[Step] = [
    DynamicInt8(),
    StaticInt8(),
    WeightsNbits(bits=2, block_size=128),
    Binarize(block_size=128),
    LowRank(keep=0.8),
    PruneChannels(ratio=0.75),
]


@pytest.mark.parametrize("step", STEPS, ids=step_name)
@pytest.mark.parametrize("name", ["perceptron", "convolutional"])
def test_no_step_makes_a_model_smaller_than_the_floor(
    home: Path, name: str, step: Step, tmp_path: Path
) -> None:
    context = StepContext(
        work_directory=tmp_path,
        original=home / f"{name}.onnx",
        host=this_host(1),
        session=SESSION,
        goal=Goal(),
        task=Task.CLASSIFICATION,
        data={"calibration": home / name / "calibration.npz"},
        seed=0,
        report=lambda share, text: None,
    )
    made = apply_step(home / f"{name}.onnx", step, context)
    search = Search(
        steps=(step_name(step),),
        values={"weights_nbits.bits": Choice((2,))} if isinstance(step, WeightsNbits) else {},
    )
    floor = smallest_weights(evidence_of(home, name), search).size_bytes
    size = read_onnx_file(made.model).size_bytes
    assert 0 < floor <= size
    if not isinstance(step, LowRank | PruneChannels) and made.modified:
        assert floor > size / 6, "a floor far below what is there would be of no use"


def test_weights_that_are_shared_or_narrow_already_give_no_floor(home: Path) -> None:
    known = evidence_of(home, "perceptron")
    assert smallest_weights(known).size_bytes > 0
    assert smallest_weights(replace(known, weight_bytes=known.weight_bytes // 2)).size_bytes == 0


@given(
    count=st.integers(2, 300),
    width=st.sampled_from((1, 2, 8, 12, 32)),
    ratio=st.floats(0.05, 0.95),
    harsher=st.floats(0, 1),
    round_to=st.sampled_from((0, 4, 8, 16)),
)
def test_no_rounding_of_channels_leaves_fewer_than_the_floor_says(
    count: int, width: int, ratio: float, harsher: float, round_to: int
) -> None:
    """Sensitivity takes from half the ratio to (1 + ratio) / 2 of a group."""
    group = Group(layers=(), roots=np.arange(count), width=width, members=())
    kept = group.kept((ratio + harsher) / 2, round_to)
    layer = Layer(
        name="one", operator="Conv", weight_shape=(count, count, 3, 3), groups=1, share=1.0
    )
    known = replace(BARE, layers=(layer,), weight_bytes=4 * 9 * count**2)
    search = Search(
        steps=("prune_channels",), values={"prune_channels.ratio": Choice((float(ratio),))}
    )
    assert smallest_weights(known, search).size_bytes <= 4 * 9 * kept**2 * (1 + 1e-9)
