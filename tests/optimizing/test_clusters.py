"""Items that belong together are counted as one: in bounds, in verdicts, and between files."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from optimizers.calibration import Groups, load_arrays, load_groups
from optimizers.contract.digests import file_sha256
from optimizers.contract.errors import InvalidData
from optimizers.contract.evaluation import Estimate
from optimizers.contract.goal import FigureName, Goal, parse_requirement
from optimizers.contract.host import this_host
from optimizers.contract.profile import Task
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.contract.signature import Signature, TensorSpec
from optimizers.evaluation.answers import ask, read_gate
from optimizers.evaluation.bounds import quantile_interval
from optimizers.evaluation.clusters import Clusters, clusters_of
from optimizers.evaluation.comparison import judge_answers
from optimizers.evaluation.disjoint import check_disjoint, not_compared
from optimizers.evaluation.fidelity import SQNR_QUANTILE, agreement_figure
from optimizers.evaluation.findings import Broken, Findings
from optimizers.evaluation.subject import Subject
from optimizers.evaluation.task import accuracy_figure
from tests.support import models
from tests.support.data import write_data

GATES = 1000
ALPHA = 0.05
CLUSTERS = 40
EACH = 20
GROUPS = np.repeat(np.arange(CLUSTERS), EACH).astype(np.str_)


def most_errors(alpha: float) -> int:
    """What a bound that keeps its promise may miss, and three standard deviations of chance."""
    return math.floor(GATES * alpha + 3 * math.sqrt(GATES * alpha * (1 - alpha)))


def misses(draw: Callable[[np.random.Generator], Estimate], truth: float) -> int:
    """How often the truth lay below the lower bound."""
    random = np.random.default_rng(0)
    lowers = [draw(random).lower for _ in range(GATES)]
    return sum(lower is not None and truth < lower for lower in lowers)


def items_of(per_cluster: np.ndarray) -> np.ndarray:
    """All items of a cluster are equal, as if it were one photograph copied."""
    return np.repeat(per_cluster, EACH)


def agreement(random: np.random.Generator, clusters: Clusters | None) -> Estimate:
    same = items_of(random.random(CLUSTERS) >= 0.1)
    return agreement_figure({"y": same}, ALPHA, clusters).value


def loss_of_accuracy(random: np.random.Generator, clusters: Clusters | None) -> Estimate:
    """The variant loses 10 % of what the original gets right, and gains nothing."""
    right = items_of(random.random(CLUSTERS) >= 0.1)
    found = accuracy_figure(np.ones(len(right), np.bool_), right, ALPHA, clusters)
    assert found.difference is not None
    return found.difference


@pytest.mark.parametrize(("draw", "truth"), [(agreement, 0.9), (loss_of_accuracy, -0.1)])
def test_equal_items_deceive_the_naive_bound_and_not_the_one_by_cluster(
    draw: Callable[[np.random.Generator, Clusters | None], Estimate], truth: float
) -> None:
    clusters = clusters_of(GROUPS)
    assert misses(lambda random: draw(random, clusters), truth) <= most_errors(ALPHA)
    assert misses(lambda random: draw(random, None), truth) > 5 * ALPHA * GATES


def test_a_quantile_by_cluster_holds_where_items_of_a_cluster_are_equal() -> None:
    clusters = clusters_of(np.repeat(np.arange(100), EACH).astype(np.str_))
    truth = 30 - 5 * 1.6448536  # the 5th percentile of a normal distribution

    def by_cluster(random: np.random.Generator) -> Estimate:
        values = np.repeat(random.normal(30, 5, 100), EACH)
        return clusters.quantile_interval(values, SQNR_QUANTILE, ALPHA)

    def naive(random: np.random.Generator) -> Estimate:
        return quantile_interval(np.repeat(random.normal(30, 5, 100), EACH), SQNR_QUANTILE, ALPHA)

    assert misses(by_cluster, truth) <= most_errors(ALPHA)
    assert misses(naive, truth) > 5 * ALPHA * GATES


def test_what_is_bounded_is_the_mean_over_clusters_whatever_their_sizes() -> None:
    """Large clusters are worse here: over items the mean would be 0.7 * 30 + 0.95, by 31."""
    truth = (0.7 + 0.95) / 2

    def draw(random: np.random.Generator) -> Estimate:
        is_large = random.random(60) < 0.5
        sizes = np.where(is_large, 30, 1)
        same = random.random(sizes.sum()) < np.repeat(np.where(is_large, 0.7, 0.95), sizes)
        groups = np.repeat(np.arange(60), sizes).astype(np.str_)
        return agreement_figure({"y": same}, ALPHA, clusters_of(groups)).value

    assert misses(draw, truth) <= most_errors(ALPHA)
    values = [draw(np.random.default_rng(seed)).value for seed in range(100)]
    assert np.mean(values) == pytest.approx(truth, abs=0.01)


def test_means_and_minima_are_those_of_the_hand_calculation() -> None:
    clusters = clusters_of(np.array(["b", "a", "b", "c", "b"]))
    assert clusters.text == "by 3 clusters of 5 items"
    values = np.array([0.0, 1.0, 0.3, 0.4, 0.6])  # a: 1, b: 0.9 / 3, c: 0.4
    assert clusters.mean_interval(values, 0.0, 1.0, ALPHA).value == pytest.approx(1.7 / 3)
    assert clusters.quantile_interval(values, 0.5, ALPHA).value == pytest.approx(0.4)


VECTOR = Signature(
    inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, 2)),),
    outputs=(),
)
X = np.arange(12, dtype=np.float32).reshape(6, 2)


def npz(path: Path, groups: Any) -> Path:
    np.savez(path.with_suffix(".npz"), x=X, groups=groups)
    return path.with_suffix(".npz")


def parquet(path: Path, groups: Any) -> Path:
    values = groups.tolist() if isinstance(groups, np.ndarray) else groups
    if isinstance(values[0], bytes):
        values = [value.decode() for value in values]
    pq.write_table(pa.table({"x": X.tolist(), "groups": values}), path, row_group_size=4)
    return path


@pytest.mark.parametrize("write", [npz, parquet])
@pytest.mark.parametrize(
    ("stored", "names"),
    [
        (np.array([7, 7, 1, 2, 2, 2]), ["7", "7", "1", "2", "2", "2"]),
        (np.array(["a", "ü", "a", "b", "b", "b"]), ["a", "ü", "a", "b", "b", "b"]),
        (np.array([b"a", b"c", b"a", b"b", b"b", b"b"]), ["a", "c", "a", "b", "b", "b"]),
    ],
)
def test_groups_are_read_from_every_kind_of_file_that_can_hold_them(
    tmp_path: Path, write: Callable[[Path, Any], Path], stored: Any, names: list[str]
) -> None:
    path = write(tmp_path / "gate.parquet", stored)
    found = load_groups(path, VECTOR)
    assert found is not None
    assert found.tolist() == names
    arrays, labels = load_arrays(path, VECTOR)
    assert list(arrays) == ["x"], "groups are no input"
    assert labels is None


@pytest.mark.parametrize("write", [npz, parquet])
@pytest.mark.parametrize("stored", [np.arange(6) / 2, np.array([True, False] * 3)])
def test_groups_that_are_no_whole_numbers_or_texts_are_refused(
    tmp_path: Path, write: Callable[[Path, Any], Path], stored: Any
) -> None:
    path = write(tmp_path / "gate.parquet", stored)
    with pytest.raises(InvalidData, match=r"gate\..*groups must be one whole number or text per"):
        load_groups(path, VECTOR)


def test_a_file_with_too_few_groups_or_two_an_item_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"the same number of items.*'groups': 5"):
        load_groups(npz(tmp_path / "gate", np.arange(5)), VECTOR)
    with pytest.raises(InvalidData, match="one whole number or text per item"):
        load_groups(npz(tmp_path / "gate", np.zeros((6, 2), np.int64)), VECTOR)


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_an_input_called_groups_stays_an_input(tmp_path: Path, suffix: str) -> None:
    spec = TensorSpec(name="groups", datatype="INT64", shape=(-1,))
    path = tmp_path / f"gate{suffix}"
    if suffix == ".npz":
        np.savez(path, groups=np.arange(6))
    else:
        pq.write_table(pa.table({"groups": list(range(6))}), path)
    signature = Signature(inputs=(spec,), outputs=())
    assert load_groups(path, signature) is None
    np.testing.assert_array_equal(load_arrays(path, signature)[0]["groups"], np.arange(6))


def test_a_photograph_in_gate_and_training_data_is_named(tmp_path: Path) -> None:
    random = np.random.default_rng(0)

    def saved(name: str, groups: Any) -> Path:
        path = tmp_path / f"{name}.npz"
        np.savez(path, x=random.random((len(groups), 2), np.float32), groups=groups)
        return path

    def check(**files: Path) -> None:
        check_disjoint(files, {name: file_sha256(path) for name, path in files.items()}, VECTOR)

    gate = saved("gate", np.array(["tram", "zebra", "quay", "quay"]))
    check(gate=gate, train=saved("train", np.array(["lake", "forest"])))
    with pytest.raises(
        InvalidData,
        match=r"1 of the 3 groups of data.gate \(gate.npz\) are in data.train \(train.npz\) as "
        "well, the first is 'quay'; split by group",
    ):
        check(gate=gate, train=saved("train", np.array(["lake", "quay"])))
    numbered = saved("gate", np.array([3, 4]))
    with pytest.raises(InvalidData, match="the first is '4'"):
        check(gate=numbered, calibration=saved("calibration", np.array(["4", "5"])))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier, a variant whose weights are a little off, and 480 labelled items."""
    folder = tmp_path_factory.mktemp("clusters")
    original = models.perceptron(folder / "model.onnx", sizes=(16, 32, 4))
    write_data(folder, original, gate_items=480)
    model = onnx.load(str(original))
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        noise = np.random.default_rng(1).normal(0, 0.01, array.shape).astype(array.dtype)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array + array * noise, tensor.name))
    onnx.save(model, str(folder / "variant.onnx"))
    return folder


def judged(home: Path, groups: Groups | None, *require: str) -> Findings:
    """The gates of fidelity and accuracy over the 480 items."""
    gate = home / "judged.npz"
    with np.load(home / "gate.npz") as stored:
        arrays = dict(stored)
    if groups is not None:
        arrays["groups"] = groups
    np.savez(gate, allow_pickle=False, **arrays)
    goal = Goal(require=tuple(map(parse_requirement, require)))
    session = SessionSpec()
    subject = Subject(
        original=home / "model.onnx",
        original_session=session,
        variant=home / "variant.onnx",
        session=session,
        goal=goal,
        task=Task.CLASSIFICATION,
        gate_data=gate,
        gate_sha256="0" * 64,
        gate_use=1,
        host=this_host(2),
        seed=0,
        measure_timeout_s=10,
    )
    findings = Findings(goal=goal, alpha=0.01)
    with (
        closing(Session(subject.original, session)) as original,
        closing(Session(subject.variant, session)) as variant,
    ):
        items = read_gate(subject, original)
        assert items is not None
        answers = ask(
            (original, variant),
            items.items,
            subject.seed,
            findings,
            lambda stage, share, text: None,
        )
        with suppress(Broken):
            judge_answers(subject.task, items, answers, findings)
    return findings


def test_figures_say_that_they_are_by_cluster(home: Path) -> None:
    found = judged(home, np.repeat(np.arange(24), 20).astype(np.str_))
    names = [figure.name for figure in found.figures]
    assert names == [
        FigureName.AGREEMENT,
        FigureName.COSINE,
        FigureName.SQNR,
        FigureName.ACCURACY,
    ]
    for figure in found.figures:
        assert (figure.samples, figure.of_items) == (24, 480)
        assert "by 24 clusters of 480 items" in figure.method


def test_clusters_that_are_too_few_are_not_judged_and_the_count_is_said(home: Path) -> None:
    groups = np.repeat(np.arange(24), 20).astype(np.str_)
    apart = judged(home, None, "agreement >= 0.9", "accuracy <= 5 points worse")
    assert {check.passed for check in apart.checks} == {True}
    found = judged(home, groups, "agreement >= 0.9", "accuracy <= 5 points worse")
    texts = [check.text for check in found.checks if check.passed is None]
    assert len(texts) == 2
    assert all("24 clusters of 480 items, at least " in text for text in texts)


def test_single_items_as_clusters_are_judged_like_items(home: Path) -> None:
    """The other bound, of the same share: it may be wider and must not say anything else."""
    alone = judged(home, np.arange(480).astype(np.str_)).figures
    items = judged(home, None).figures
    for one, other in zip(alone, items, strict=True):
        assert one.value.value == pytest.approx(other.value.value)
        assert one.samples == other.samples == 480
        assert other.of_items == 0
        if one.name in (FigureName.COSINE, FigureName.SQNR):
            assert one.value.lower == pytest.approx(other.value.lower, rel=1e-6)


@pytest.mark.parametrize("kind", [".npz", ".parquet"])
def test_data_beside_a_grouped_gate_has_to_name_groups_where_it_can(
    tmp_path: Path, kind: str
) -> None:
    x = np.random.default_rng(0).random((8, 2), np.float32)
    gate, other = tmp_path / "gate.npz", tmp_path / f"calibration{kind}"
    np.savez(gate, x=x[:4], groups=np.arange(4))
    if kind == ".npz":
        np.savez(other, x=x[4:])
    else:
        pq.write_table(pa.table({"x": x[4:].tolist()}), other)
    files = {"gate": gate, "calibration": other}
    digests = {name: file_sha256(path) for name, path in files.items()}
    with pytest.raises(
        InvalidData,
        match=rf"data.calibration \(calibration{kind}\) names none.*expected `groups`, one per "
        f"item, in calibration{kind} as well",
    ):
        check_disjoint(files, digests, VECTOR)
    np.savez(gate, x=x[:4])
    check_disjoint(files, digests, VECTOR)


def test_data_that_can_name_no_groups_is_noted(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((8, 2), np.float32)
    files = {"gate": tmp_path / "gate.npz", "train": tmp_path / "train.npy"}
    np.savez(files["gate"], x=x[:4], groups=np.arange(4))
    np.save(files["train"], x[4:])
    check_disjoint(files, {name: file_sha256(path) for name, path in files.items()}, VECTOR)
    (note,) = not_compared(files, VECTOR)
    assert "data.train" in note
    assert "train.npy is of a kind that holds no `groups`" in note
    np.savez(files["gate"], x=x[:4])
    assert not_compared(files, VECTOR) == ()
