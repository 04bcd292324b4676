"""The same work is not done twice, and other work is never taken for it."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from optimizers import pipeline
from optimizers.artefacts import Artefact, Artefacts
from optimizers.contract.digests import file_sha256
from optimizers.contract.distillation import Distill
from optimizers.contract.errors import InvalidData
from optimizers.contract.goal import FigureName, Goal
from optimizers.contract.host import this_host
from optimizers.contract.ingredients import Ingredients, step_keys
from optimizers.contract.job import (
    CANDIDATE_DIRECTORY,
    PROGRESS_FILE,
    JobSpec,
    read_built,
    write_spec,
)
from optimizers.contract.manifest import MODEL_FILE, StepRecord
from optimizers.contract.named_models import models_sha256
from optimizers.contract.profile import Profile, Task
from optimizers.contract.pruning import PruneChannels
from optimizers.contract.quantization import DynamicInt8, StaticInt8
from optimizers.contract.recipe import Recipe
from optimizers.contract.runtime import SessionSpec
from optimizers.contract.steps import Step
from optimizers.contract.training import Training
from optimizers.reuse import Reuse
from optimizers.untouched import Untouched
from tests.support import models
from tests.support.data import write_data

PRUNE = PruneChannels(ratio=0.5, sensitivity=False)
DISTILL = Distill(training=Training(epochs=1))
TAKEN = "built earlier, taken from the cache, key "


@pytest.fixture
def spec(tmp_path: Path) -> JobSpec:
    """A job that prunes, trains and quantises a perceptron, with a cache."""
    model = models.perceptron(tmp_path / "net.onnx", sizes=(16, 64, 64, 4))
    write_data(tmp_path, model)
    data = {name: tmp_path / f"{name}.npz" for name in ("gate", "calibration", "train")}
    return JobSpec(
        id="job",
        model="net",
        version=1,
        profile=profile(PRUNE, DISTILL, StaticInt8()),
        task=Task.CLASSIFICATION,
        original_file=model,
        original_name="net.onnx",
        original_sha256=file_sha256(model),
        original_session=SessionSpec(),
        data=data,
        data_sha256={name: file_sha256(path) for name, path in data.items()},
        cache=tmp_path / "cache",
    )


def profile(*steps: Step) -> Profile:
    goal = Goal(optimize=(FigureName.SIZE,))
    return Profile(name="small", recipe=Recipe(steps=steps), goal=goal)


def build(directory: Path, spec: JobSpec) -> tuple[str, tuple[StepRecord, ...], str]:
    """Build in this process: the candidate's digest, the records, and what was reported."""
    directory.mkdir()
    said: list[str] = []
    built = pipeline.build(
        directory,
        spec,
        this_host(2),
        lambda stage, share, text: said.append(f"{stage}: {text}"),
        Untouched(spec),
    )
    return candidate(directory), built.records, "\n".join(said)


def candidate(directory: Path) -> str:
    return file_sha256(directory / CANDIDATE_DIRECTORY / MODEL_FILE)


def start_worker(directory: Path, spec: JobSpec) -> subprocess.Popen[bytes]:
    directory.mkdir()
    write_spec(directory, spec)
    command = [sys.executable, "-m", "optimizers", "worker", str(directory), "--stage", "build"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def taken(records: Sequence[StepRecord]) -> list[str]:
    """Names of the steps that say that they, and those before, came from the cache."""
    return [one.step for one in records if any(TAKEN in note for note in one.notes)]


def entries(cache: Path) -> list[Path]:
    return sorted(cache.iterdir(), key=lambda place: place.stat().st_mtime_ns)


def test_the_same_build_again_runs_no_step_and_says_so(tmp_path: Path, spec: JobSpec) -> None:
    first, records, said = build(tmp_path / "1", spec)
    assert not taken(records)
    assert "distill: " in said
    again, same, said = build(tmp_path / "2", spec)
    assert again == first
    assert taken(same) == ["static_int8"]
    assert "distill: " not in said, "it trained again"
    assert TAKEN in said, "whoever watches is not told"
    assert [one.notes[:-1] for one in same[-1:]] == [records[-1].notes]
    assert same[:-1] == records[:-1]


def test_a_recipe_goes_on_where_another_ended(tmp_path: Path, spec: JobSpec) -> None:
    build(tmp_path / "1", replace(spec, profile=profile(PRUNE, DISTILL)))
    _, records, said = build(tmp_path / "2", spec)
    assert taken(records) == ["distill"]
    assert "distill: epoch" not in said, "it trained again"
    assert [one.step for one in records] == ["prune_channels", "distill", "static_int8"]


def test_another_seed_or_other_data_is_other_work(tmp_path: Path, spec: JobSpec) -> None:
    spec = replace(spec, profile=profile(DynamicInt8()))
    build(tmp_path / "1", spec)
    _, records, _ = build(tmp_path / "2", replace(spec, seed=1))
    assert not taken(records)
    random = np.random.default_rng(9)
    train = random.standard_normal((50, 16)).astype(np.float32)
    np.savez(spec.data["train"], x=train, labels=np.zeros(50, np.int64))
    changed = replace(
        spec, data_sha256=spec.data_sha256 | {"train": file_sha256(spec.data["train"])}
    )
    _, records, _ = build(tmp_path / "3", changed)
    assert not taken(records)


def test_other_gate_data_is_the_same_work(tmp_path: Path, spec: JobSpec) -> None:
    spec = replace(spec, profile=profile(DynamicInt8()))
    build(tmp_path / "1", spec)
    without = {name: path for name, path in spec.data.items() if name != "gate"}
    _, records, _ = build(tmp_path / "2", replace(spec, data=without))
    assert taken(records) == ["dynamic_int8"]


INGREDIENTS = Ingredients(
    task=Task.OTHER,
    seed=0,
    original_sha256="a",
    original_session=SessionSpec(),
    data_sha256={"train": "b"},
    models_sha256={"teacher.onnx": "7e" * 32},
    host=this_host(2),
    versions={"torch": "1"},
    code_sha256="c",
)


@pytest.mark.parametrize(
    "changed",
    [
        replace(INGREDIENTS, task=Task.EMBEDDING),
        replace(INGREDIENTS, seed=1),
        replace(INGREDIENTS, original_sha256="b"),
        replace(INGREDIENTS, original_session=SessionSpec(provider="cuda")),
        replace(INGREDIENTS, data_sha256={"train": "c"}),
        replace(INGREDIENTS, host=replace(INGREDIENTS.host, cpu_features=("avx2",))),
        replace(INGREDIENTS, models_sha256={"teacher.onnx": "8f" * 32}),
        replace(INGREDIENTS, host=replace(INGREDIENTS.host, cpus=3)),
        replace(INGREDIENTS, versions={"torch": "2"}),
        replace(INGREDIENTS, versions={"torch": "1", "onnx": "1"}),
        replace(INGREDIENTS, code_sha256="d"),
    ],
)
def test_whatever_decides_the_outcome_decides_the_key(changed: Ingredients) -> None:
    assert step_keys(changed, [PRUNE]) != step_keys(INGREDIENTS, [PRUNE])


def test_a_step_is_known_by_its_parameters_and_by_those_before_it() -> None:
    [one, two] = step_keys(INGREDIENTS, [PRUNE, DISTILL])
    assert step_keys(INGREDIENTS, [PRUNE]) == (one,)
    assert step_keys(INGREDIENTS, [DISTILL]) != (two,)
    assert step_keys(INGREDIENTS, [replace(PRUNE, ratio=0.25), DISTILL])[1] != two


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("file", [MODEL_FILE, "entry.json"])
def test_a_damaged_entry_is_built_again_and_that_is_said(
    tmp_path: Path, spec: JobSpec, file: str
) -> None:
    spec = replace(spec, profile=profile(DynamicInt8()))
    first, _, _ = build(tmp_path / "1", spec)
    assert spec.cache is not None
    [entry] = entries(spec.cache)
    flip(entry / file)
    again, records, _ = build(tmp_path / "2", spec)
    assert again == first
    assert not taken(records)
    assert f"the bytes of {file} have changed" in records[0].notes[-1]
    assert records[0].notes[-1].endswith("built again")
    _, records, _ = build(tmp_path / "3", spec)
    assert taken(records) == ["dynamic_int8"], "the entry was not replaced"


def test_two_builds_at_once_leave_one_whole_entry(tmp_path: Path, spec: JobSpec) -> None:
    spec = replace(spec, profile=profile(DynamicInt8()))
    both = [start_worker(tmp_path / name, spec) for name in ("1", "2")]
    assert [one.wait(300) for one in both] == [0, 0]
    assert candidate(tmp_path / "1") == candidate(tmp_path / "2")
    assert spec.cache is not None
    assert len(entries(spec.cache)) == 1
    assert start_worker(tmp_path / "3", spec).wait(300) == 0
    built = read_built(tmp_path / "3")
    assert built is not None
    assert taken(built.records) == ["dynamic_int8"]
    assert TAKEN in (tmp_path / "3" / PROGRESS_FILE).read_text(), "whoever watches is not told"


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    model = models.perceptron(tmp_path / "net.onnx", sizes=(16, 64, 4))
    artefact = Artefact(model=model, session=SessionSpec(), records=())
    size = model.stat().st_size
    cache = Artefacts(tmp_path / "cache", int(2.9 * size))
    for age, key in ((30, "a"), (20, "b")):
        cache.keep(key, artefact)
        os.utime(tmp_path / "cache" / key, (0, 10**9 - age))
    assert cache.take("a", tmp_path / "used") is not None
    cache.keep("c", artefact)
    kept = {key for key in "abc" if cache.take(key, tmp_path / key)}
    assert kept == {"a", "c"}
    Artefacts(tmp_path / "small", size // 2).keep("a", artefact)
    assert not list((tmp_path / "small").iterdir()), "more than the limit was kept"


def test_external_weights_are_kept_and_checked(tmp_path: Path) -> None:
    model = tmp_path / "large.onnx"
    whole = onnx.load(models.perceptron(tmp_path / "net.onnx", sizes=(16, 64, 4)))
    onnx.save(whole, model, save_as_external_data=True, location="weights", size_threshold=0)
    cache = Artefacts(tmp_path / "cache", 1 << 30)
    cache.keep("a", Artefact(model=model, session=SessionSpec(), records=()))
    found = cache.take("a", tmp_path / "found")
    assert found is not None
    assert (tmp_path / "found/weights").read_bytes() == (tmp_path / "weights").read_bytes()
    (tmp_path / "cache/a/weights").unlink()
    with pytest.raises(InvalidData, match="cache entry a was damaged"):
        cache.take("a", tmp_path / "lost")
    assert not (tmp_path / "lost").exists()
    assert cache.take("a", tmp_path / "lost") is None


def test_a_cache_that_cannot_be_written_costs_no_build(tmp_path: Path, spec: JobSpec) -> None:
    (tmp_path / "cache").write_bytes(b"no directory")
    _, records, _ = build(tmp_path / "1", replace(spec, profile=profile(DynamicInt8())))
    assert "not kept in the cache: File exists" in records[0].notes


@pytest.mark.parametrize("name", ["train.npz", "teacher.onnx", "teacher.bin"])
def test_what_came_of_a_file_that_was_overwritten_meanwhile_is_not_kept(
    tmp_path: Path, spec: JobSpec, name: str
) -> None:
    """Else the next build would take it for what comes of the file that was submitted."""
    teacher = tmp_path / "teacher.onnx"
    onnx.save(
        onnx.load(str(spec.original_file)),
        str(teacher),
        save_as_external_data=True,
        location="teacher.bin",
        size_threshold=0,
    )
    steps = (PRUNE, replace(DISTILL, teacher="teacher.onnx"))
    named = {"teacher.onnx": teacher}
    spec = replace(spec, profile=profile(*steps), models=named, models_sha256=models_sha256(named))
    directory = tmp_path / "job"
    directory.mkdir()

    def overwrite(stage: str, share: float, text: str) -> None:
        path = tmp_path / name
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)

    with pytest.raises(InvalidData, match=f"{name} was changed while it was used"):
        pipeline.build(directory, spec, this_host(2), overwrite, Untouched(spec))
    assert spec.cache is not None
    assert not spec.cache.is_dir() or entries(spec.cache) == []
    build(tmp_path / "again", spec)


def test_a_copy_that_cannot_be_written_costs_no_build(tmp_path: Path, spec: JobSpec) -> None:
    spec = replace(spec, profile=profile(DynamicInt8()))
    assert spec.cache is not None
    made = Artefact(model=spec.original_file, session=SessionSpec(), records=())
    Artefacts(spec.cache, 1 << 30).keep("a", made)
    reuse, target = Reuse(spec, ["a"]), tmp_path / "work/taken"
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        found = reuse.longest(target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert (found.model, found.records) == (spec.original_file, ())
    assert reuse.notes[0] == ["not taken from the cache: File too large; built again"]
    assert not target.exists()
    assert reuse.longest(target).model.parent == target, "the entry was not to blame"


@pytest.mark.parametrize(
    "name", ["../outside", "x/../../outside", "/outside", "out\0side", ".", ""]
)
def test_an_entry_that_names_a_file_outside_itself_is_damaged(tmp_path: Path, name: str) -> None:
    model = models.perceptron(tmp_path / "net.onnx", sizes=(16, 64, 4))
    cache = Artefacts(tmp_path / "cache", 1 << 30)
    cache.keep("a", Artefact(model=model, session=SessionSpec(), records=()))
    (tmp_path / "cache/outside").write_bytes(model.read_bytes())
    (tmp_path / "cache/a/x").mkdir()
    entry = tmp_path / "cache/a/entry.json"
    content = json.loads(entry.read_bytes().partition(b"\n")[2])
    content["files"][0]["name"] = name
    edited = json.dumps(content).encode()
    entry.write_bytes(hashlib.sha256(edited).hexdigest().encode() + b"\n" + edited)
    with pytest.raises(InvalidData, match="cache entry a was damaged"):
        cache.take("a", tmp_path / "work/taken")
    assert not list((tmp_path / "work").iterdir()), "it was written beside the target"
    assert (tmp_path / "cache/outside").exists()


def test_a_file_changed_between_its_digest_and_the_first_step_is_seen(
    tmp_path: Path, spec: JobSpec
) -> None:
    untouched = Untouched(spec)
    content = spec.data["train"].read_bytes()
    spec.data["train"].unlink()
    spec.data["train"].write_bytes(content)
    directory = tmp_path / "job"
    directory.mkdir()
    with pytest.raises(InvalidData, match=r"train.npz was changed while it was used"):
        pipeline.build(directory, spec, this_host(2), lambda *said: None, untouched)
