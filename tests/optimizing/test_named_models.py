"""Teachers and students that an operator names: what they teach, and what is refused."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from optimizers.contract.digests import file_sha256
from optimizers.contract.distillation import Distill, Finetune
from optimizers.contract.documents import Document
from optimizers.contract.errors import InvalidData, InvalidDocument, InvalidModel
from optimizers.contract.job import (
    CANDIDATE_DIRECTORY,
    JobSpec,
    read_built,
    read_result,
    write_spec,
)
from optimizers.contract.manifest import MODEL_FILE
from optimizers.contract.named_models import models_sha256, named_models
from optimizers.contract.profile import Profile, Task
from optimizers.contract.recipe import Recipe, recipe_from_data
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.contract.signature import Signature, TensorSpec
from optimizers.evaluation.named import check_models, taught_outputs
from optimizers.step import StepContext
from optimizers.techniques import apply_step
from tests.support import models
from tests.support.contexts import step_context
from tests.support.digits import (
    SHORT,
    accuracy,
    agreement,
    digits,
    train_original,
    training_context,
    untrained,
)


@pytest.fixture
def context(tmp_path: Path) -> StepContext:
    """The original is a trained perceptron of 96 units; the training data has no labels."""
    context = training_context(tmp_path)
    train_original(context)
    return context


def renamed(path: Path, output: str) -> Path:
    """The same model under another name of its output."""
    proto = onnx.load(str(path))
    for node in proto.graph.node:
        for index, name in enumerate(node.output):
            if name == proto.graph.output[0].name:
                node.output[index] = output
    proto.graph.output[0].name = output
    onnx.save(proto, str(path))
    return path


def teacher_of_successors(context: StepContext) -> Path:
    """A model that answers 8 to a 7, so that nobody mixes it up with the original."""
    images, labels = digits()["train"]
    start = untrained(context.work_directory / "start.onnx", width=64, seed=5)
    data = context.work_directory / "successors.npz"
    np.savez(data, x=images, labels=(labels + 1) % 10)
    result = apply_step(start, Finetune(training=SHORT), replace(context, data={"train": data}))
    return result.model.replace(context.work_directory / "successors.onnx")


@pytest.mark.parametrize("output", ["y", "scores"], ids=["by name", "by place"])
def test_the_student_answers_like_the_named_teacher(
    context: StepContext, tmp_path: Path, output: str
) -> None:
    teacher = renamed(teacher_of_successors(context), output)
    context = replace(context, models={"teachers/successors.onnx": teacher})
    step = Distill(teacher="teachers/successors.onnx", training=SHORT)
    result = apply_step(untrained(tmp_path / "start.onnx", seed=3), step, context)
    right = digits()["search"][1]
    with_session = Session(result.model, SessionSpec())
    answers = with_session.run({"x": digits()["search"][0]})[0].argmax(axis=1)
    with_session.close()
    assert (answers == (right + 1) % 10).mean() > 0.8
    assert agreement(result.model, context.original) < 0.3, "the original would teach otherwise"
    digest = file_sha256(teacher)
    assert result.notes[0] == f"teacher: teachers/successors.onnx, sha256 {digest}"


def test_a_student_from_scratch_reaches_most_of_its_teachers_accuracy(
    context: StepContext, tmp_path: Path
) -> None:
    """Trained on 1500 digits, looked at on 1000 others."""
    student = untrained(tmp_path / "small.onnx", width=24, seed=7)
    context = replace(context, models={"students/small.onnx": student})
    step = Distill(student="students/small.onnx", training=replace(SHORT, epochs=8))
    result = apply_step(context.original, step, context)
    assert result.modified
    assert accuracy(student) < 0.3
    assert accuracy(result.model) > 0.93 * accuracy(context.original)
    weights = {one.name: list(one.dims) for one in onnx.load(str(result.model)).graph.initializer}
    assert weights["w0"] == [784, 24], "it goes on with the student's graph"
    assert result.notes[0].startswith("student: students/small.onnx, sha256 ")


def test_a_student_that_learns_nothing_more_still_takes_the_place(
    context: StepContext, tmp_path: Path
) -> None:
    student = tmp_path / "same.onnx"
    student.write_bytes(context.original.read_bytes())
    context = replace(context, models={"same.onnx": student})
    result = apply_step(context.original, Distill(student="same.onnx", training=SHORT), context)
    assert (result.model, result.modified) == (student, True)
    assert "it did not fall, so nothing was kept" in result.notes[-1]


def test_the_original_teaches_itself_with_labels_and_after_a_cut_without(
    context: StepContext, tmp_path: Path
) -> None:
    """Self-distillation, which is what `distill` does unless told otherwise."""
    images, labels = digits()["train"]
    start = untrained(tmp_path / "start.onnx", width=96)
    np.savez(tmp_path / "few.npz", x=images[:200], labels=labels[:200])
    few = replace(context, data={"train": tmp_path / "few.npz"})
    weak = apply_step(start, Finetune(training=SHORT), few).model.replace(tmp_path / "weak.onnx")
    np.savez(tmp_path / "all.npz", x=images, labels=labels)
    labelled = replace(context, original=weak, data={"train": tmp_path / "all.npz"})
    taught = apply_step(weak, Distill(weight=0.3, training=SHORT), labelled)
    assert accuracy(taught.model) > accuracy(weak) + 0.03

    cut = onnx.load(str(context.original))
    weight = next(one for one in cut.graph.initializer if one.name == "w0")
    array = onnx.numpy_helper.to_array(weight).copy()
    array[:, ::2] = 0  # every other hidden unit answers the same to everything
    weight.CopyFrom(onnx.numpy_helper.from_array(array, "w0"))
    onnx.save(cut, str(tmp_path / "cut.onnx"))
    healed = apply_step(tmp_path / "cut.onnx", Distill(training=SHORT), context)
    before = agreement(tmp_path / "cut.onnx", context.original)
    assert agreement(healed.model, context.original) > max(0.9, before + 0.05)


# What is refused


def perceptron(path: Path, **changes: tuple[str, int, list[int | str]]) -> Path:
    """y [batch, 3] = x [batch, 4] W, with inputs or outputs that were changed."""
    given = changes.get("input", ("x", TensorProto.FLOAT, ["batch", 4]))
    made = changes.get("output", ("y", TensorProto.FLOAT, ["batch", 3]))
    columns = made[2][1]
    assert isinstance(columns, int)
    width = given[2][1]
    assert isinstance(width, int)
    node = onnx.helper.make_node("MatMul", [given[0], "w"], [made[0]])
    weight = np.ones((width, columns), np.float32)
    return models.save(path, [node], [given], [made], {"w": weight})


WIDE = ("x", TensorProto.FLOAT, ["batch", 5])
OTHER = ("pixels", TensorProto.FLOAT, ["batch", 4])
FIXED = ("x", TensorProto.FLOAT, [8, 4])
TEN: tuple[str, int, list[int | str]] = ("y", TensorProto.FLOAT, ["batch", 10])
SCORES = ("scores", TensorProto.FLOAT, ["batch", 3])


@pytest.mark.parametrize(
    ("step", "changes", "text"),
    [
        (Distill(teacher="m.onnx"), {"input": OTHER}, r"the teacher m.onnx takes 'pixels' FP32"),
        (Distill(teacher="m.onnx"), {"input": WIDE}, r"takes 'x' FP32 \[any, 5\]; the data has"),
        (Distill(teacher="m.onnx"), {"output": TEN}, r"gives 'y' FP32 \[any, 10\]; expected 'y'"),
        (
            Distill(teacher="m.onnx"),
            {"input": FIXED, "output": ("y", TensorProto.FLOAT, [8, 3])},
            "takes no batches of any size",
        ),
        (
            Distill(student="m.onnx"),
            {"output": SCORES},
            r"has the outputs 'scores' FP32 \[any, 3\]",
        ),
        (Distill(student="m.onnx"), {"input": OTHER}, r"expected those of the original: 'x' FP32"),
        (Distill(student="m.onnx"), {"output": TEN}, r"has the outputs 'y' FP32 \[any, 10\]"),
    ],
    ids=["input", "width", "classes", "batch", "output's name", "input's name", "output's form"],
)
def test_models_that_do_not_fit_are_named(
    tmp_path: Path,
    step: Distill,
    changes: dict[str, tuple[str, int, list[int | str]]],
    text: str,
) -> None:
    original = Session(perceptron(tmp_path / "original.onnx"), SessionSpec())
    named = {"m.onnx": perceptron(tmp_path / "m.onnx", **changes)}
    with pytest.raises(InvalidModel, match=text):
        check_models(Recipe(steps=(step,)), named, original.signature)
    good = {"m.onnx": perceptron(tmp_path / "m.onnx")}
    check_models(Recipe(steps=(step,)), good, original.signature)
    original.close()


def signature(*outputs: str) -> Signature:
    taken, *made = (
        TensorSpec(name=name, datatype="FP32", shape=(-1, 3)) for name in ("x", *outputs)
    )
    return Signature(inputs=(taken,), outputs=tuple(made))


def test_outputs_teach_by_name_and_only_what_has_no_name_by_place() -> None:
    pairs = {("b", "a"): {"a": "a", "b": "b"}, ("a", "z"): {"a": "a", "z": "b"}}
    for outputs, wanted in pairs.items():
        assert taught_outputs("m.onnx", signature(*outputs), signature("a", "b")) == wanted
    with pytest.raises(InvalidModel, match=r"and not 'a' FP32 \[any, 3\], which the original"):
        taught_outputs("m.onnx", signature("b", "z"), signature("a", "b"))


def test_a_teacher_whose_free_lengths_turn_out_otherwise_is_refused(tmp_path: Path) -> None:
    """Torch would compare ten numbers with one, and warn on a stream that nobody reads."""
    images = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
    np.savez(tmp_path / "train.npz", x=images)
    model = perceptron(tmp_path / "model.onnx", output=TEN)
    models.save(
        tmp_path / "m.onnx",
        [
            onnx.helper.make_node("NonZero", ["flags"], ["found"]),
            onnx.helper.make_node("Squeeze", ["found", "axes"], ["columns"]),
            onnx.helper.make_node("Gather", ["x", "columns"], ["y"], axis=1),
        ],
        [("x", TensorProto.FLOAT, ["batch", 4])],
        [("y", TensorProto.FLOAT, ["batch", "n"])],
        {"flags": np.array([0, 1, 0, 0], np.float32), "axes": np.array([0], np.int64)},
    )
    context = step_context(tmp_path, data={"train": tmp_path / "train.npz"})
    context = replace(context, models={"m.onnx": tmp_path / "m.onnx"})
    with pytest.raises(
        InvalidModel, match=r"the teacher answers \[1\] an item where 'y' is \[10\]"
    ):
        apply_step(model, Distill(teacher="m.onnx", training=SHORT), context)


@pytest.mark.parametrize("name", ["../m.onnx", "/etc/m.onnx", "a/../../m.onnx"])
@pytest.mark.parametrize("make", [lambda n: Distill(teacher=n), lambda n: Distill(student=n)])
def test_paths_that_lead_elsewhere_are_refused(make: Callable[[str], Distill], name: str) -> None:
    with pytest.raises(InvalidDocument, match="expected a path below the directory of the file"):
        make(name)


def test_a_student_comes_first_in_a_recipe() -> None:
    recipe = [{"prune_channels": {}}, {"distill": {"student": "small.onnx"}}]
    with pytest.raises(InvalidDocument, match="put it before prune_channels"):
        recipe_from_data(recipe, Document.from_data({}, "hone.yaml"))
    assert recipe_from_data(recipe[::-1], Document.from_data({}, "hone.yaml")).steps


def test_files_that_are_missing_or_lead_out_are_refused(tmp_path: Path) -> None:
    home = tmp_path / "net"
    home.mkdir()
    recipe = Recipe(steps=(Distill(teacher="teacher.onnx"),))
    with pytest.raises(InvalidData, match=r"hone.yaml names the model teacher.onnx, which is miss"):
        named_models(recipe, home, "net/hone.yaml")
    perceptron(tmp_path / "outside.onnx")
    (home / "teacher.onnx").symlink_to(tmp_path / "outside.onnx")
    with pytest.raises(InvalidData, match="links to a place outside net; expected a file in it"):
        named_models(recipe, home, "net/hone.yaml")
    (home / "teacher.onnx").unlink()
    perceptron(home / "teacher.onnx")
    assert named_models(recipe, home, "net/hone.yaml") == {"teacher.onnx": home / "teacher.onnx"}


def test_external_weights_belong_to_a_models_digest(tmp_path: Path) -> None:
    proto = onnx.load(str(perceptron(tmp_path / "inside.onnx")))
    onnx.save(
        proto,
        str(tmp_path / "m.onnx"),
        save_as_external_data=True,
        location="w.bin",
        size_threshold=0,
    )
    before = models_sha256({"m.onnx": tmp_path / "m.onnx"})
    content = bytearray((tmp_path / "w.bin").read_bytes())
    content[0] ^= 1
    (tmp_path / "w.bin").write_bytes(content)
    assert models_sha256({"m.onnx": tmp_path / "m.onnx"}) != before


# A job


STEP = Distill(
    student="students/small.onnx", teacher="teacher.onnx", training=replace(SHORT, epochs=3)
)


def test_a_job_names_all_that_its_candidate_was_made_of(
    context: StepContext, tmp_path: Path
) -> None:
    untrained(tmp_path / "students/small.onnx", width=16, seed=7)
    teacher = tmp_path / "teacher.onnx"
    teacher.write_bytes(context.original.read_bytes())
    profile = Profile(name="small", recipe=Recipe(steps=(STEP,)))
    named = named_models(profile.recipe, tmp_path, "small.yaml")
    spec = JobSpec(
        id="job",
        model="net",
        version=1,
        profile=profile,
        task=Task.CLASSIFICATION,
        original_file=context.original,
        original_name="original.onnx",
        original_sha256=file_sha256(context.original),
        original_session=SessionSpec(),
        data={"train": context.data["train"]},
        data_sha256={"train": file_sha256(context.data["train"])},
        models=named,
        models_sha256=models_sha256(named),
    )
    directory = tmp_path / "job"
    directory.mkdir()
    write_spec(directory, spec)
    command = ["worker", str(directory), "--stage", "build"]
    assert optimizers(*command).returncode == 0
    built = read_built(directory)
    assert built is not None, read_result(directory)
    assert built.records[0].notes[:2] == (
        f"student: students/small.onnx, sha256 {file_sha256(tmp_path / 'students/small.onnx')}",
        f"teacher: teacher.onnx, sha256 {file_sha256(teacher)}",
    )
    assert agreement(directory / CANDIDATE_DIRECTORY / MODEL_FILE, context.original) > 0.8

    perceptron(teacher)
    optimizers(*command)
    assert read_result(directory) is None, "it was built already"
    shutil.rmtree(directory)
    directory.mkdir()
    write_spec(directory, spec)
    optimizers(*command)
    result = read_result(directory)
    assert result is not None
    assert result.reason == "teacher.onnx changed since the job was submitted; submit it again"


def test_the_command_line_finds_models_beside_the_profile(
    context: StepContext, tmp_path: Path
) -> None:
    home = tmp_path / "wishes"
    home.mkdir()
    perceptron(home / "teacher.onnx")
    profile = home / "small.yaml"
    profile.write_text("recipe: [{distill: {teacher: teacher.onnx}}]\n")
    arguments = [str(context.original), "--profile-file", str(profile), "-o", str(tmp_path / "v")]
    done = optimizers("build", *arguments, "--train", str(context.data["train"]))
    assert done.returncode == 1
    assert "failed: the teacher teacher.onnx takes 'x' FP32 [any, 4]; the data has" in done.stdout
    (home / "teacher.onnx").unlink()
    done = optimizers("build", *arguments)
    said = "hone: small.yaml names the model teacher.onnx, which is missing\n"
    assert (done.returncode, done.stderr) == (1, said)


def optimizers(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "optimizers", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
