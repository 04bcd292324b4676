"""Training data that stays in its file: the same numbers, the same training, little memory."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from optimizers.calibration import Arrays
from optimizers.contract.distillation import Distill, Finetune
from optimizers.contract.errors import InvalidData, NotSupported
from optimizers.contract.profile import Task
from optimizers.contract.pruning import Sparsify
from optimizers.contract.quantization import Binarize, QuantizeAware
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.contract.steps import Step, step_name
from optimizers.contract.training import Training
from optimizers.learning.answers import CollectedAnswers
from optimizers.learning.items import teacher_answers, training_items
from optimizers.learning.reading import read_rows
from optimizers.learning.stored import StoredRows
from optimizers.readers.places import places
from optimizers.step import StepContext
from optimizers.techniques import apply_step
from tests.support import models
from tests.support.contexts import step_context

ITEMS, WIDTH = 700, 16
ONCE = Training(epochs=1)


def numbers() -> NDArray[np.float32]:
    return np.random.default_rng(3).standard_normal((ITEMS, WIDTH)).astype(np.float32)


def parquet(path: Path, x: NDArray[Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"x": pa.array(list(x))}), path, row_group_size=64)


def stored_twice(path: Path, x: NDArray[Any]) -> None:
    """One array compressed, the other not."""
    np.savez(path, x=x)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.npy", npy_bytes(np.arange(ITEMS) % 4))


def npy_bytes(array: NDArray[Any]) -> bytes:
    import io

    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


WRITE: dict[str, Callable[[Path, NDArray[Any]], object]] = {
    "train.npy": np.save,
    "train.npz": lambda path, x: np.savez(path, x=x),
    "train.PACKED.npz": lambda path, x: np.savez_compressed(path, x=x),
    "train.TWICE.npz": stored_twice,
    "train.DOUBLE.npy": lambda path, x: np.save(path, x.astype(np.float64)),
    "train.SWAPPED.npy": lambda path, x: np.save(path, x.astype(">f4")),
    "train.FORTRAN.npy": lambda path, x: np.save(path, np.asfortranarray(x)),
    "train.parquet": parquet,
}
IN_PLACE = ("train.npy", "train.npz", "train.TWICE.npz")


@pytest.fixture
def context(tmp_path: Path) -> StepContext:
    models.perceptron(tmp_path / "model.onnx", sizes=(WIDTH, 32, 4))
    return step_context(tmp_path, task=Task.CLASSIFICATION)


@pytest.mark.parametrize("name", WRITE)
def test_items_in_a_file_are_those_in_memory(
    tmp_path: Path, context: StepContext, name: str
) -> None:
    x, path = numbers(), tmp_path / name
    WRITE[name](path, x)
    context = replace(context, data={"train": path})
    held = training_items("test", context.original, context)
    stored = training_items("test", context.original, replace(context, held_bytes=1000))
    assert isinstance(held.arrays["x"], np.ndarray)
    assert isinstance(stored.arrays["x"], StoredRows)
    written = [file.name for file in context.work_directory.iterdir()]
    assert written == ([] if name in IN_PLACE else ["train.0.rows"])
    for chosen in (torch.tensor([5, 699, 0, 5, -1]), torch.arange(0), torch.arange(ITEMS)):
        wanted = torch.from_numpy(x[chosen.numpy()])
        for items in (held, stored):
            assert torch.equal(items.feeds(chosen)["x"], wanted)
    assert np.array_equal(stored.arrays["x"][650:900], x[650:])
    assert (stored.labels is None) == (name != "train.TWICE.npz")
    with pytest.raises(IndexError, match="holds 700 items"):
        stored.feeds(torch.tensor([700]))
    answers = [teacher_answers(context.original, items)["logits"] for items in (held, stored)]
    assert torch.equal(answers[0][torch.arange(ITEMS)], answers[1][torch.arange(ITEMS)])


@pytest.mark.parametrize("name", WRITE)
def test_what_is_wrong_is_named_wherever_the_items_stay(
    tmp_path: Path, context: StepContext, name: str
) -> None:
    x, path = numbers(), tmp_path / name
    x[613, 3] = np.nan
    WRITE[name](path, x)
    context = replace(context, data={"train": path})
    for held_bytes in (1 << 20, 1000):
        with pytest.raises(InvalidData, match=r"'x' holds nan in row 613, expected a number"):
            training_items("test", context.original, replace(context, held_bytes=held_bytes))


def test_rows_of_other_shapes_are_named(tmp_path: Path, context: StepContext) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    model = models.free_widths(tmp_path / "free.onnx")
    rows = [[1.0, 2.0]] * 256 + [[1.0]] * 10
    table = pa.table({name: pa.array(rows, pa.list_(pa.float32())) for name in ("a", "b")})
    pq.write_table(table, tmp_path / "train.parquet")
    context = replace(context, data={"train": tmp_path / "train.parquet"})
    for held_bytes in (1 << 20, 100):
        with pytest.raises(InvalidData, match=r"has shape \[1\] in row 256 and \[2\] before"):
            training_items("test", model, replace(context, held_bytes=held_bytes))


def test_a_file_that_changes_while_it_is_used_is_noticed(
    tmp_path: Path, context: StepContext
) -> None:
    path = tmp_path / "train.npy"
    np.save(path, numbers())
    context = replace(context, data={"train": path})
    items = training_items("test", context.original, replace(context, held_bytes=1000))
    with path.open("r+b") as file:
        file.truncate(2000)
    with pytest.raises(InvalidData, match=r"train\.npy was changed while it was used"):
        items.feeds(torch.tensor([600]))


def test_places_of_arrays_are_found_by_what_they_hold(tmp_path: Path) -> None:
    stored_twice(tmp_path / "train.npz", numbers())
    found = places(tmp_path / "train.npz")
    assert list(found) == ["x"], "what is compressed has no place"
    content = (tmp_path / "train.npz").read_bytes()
    there = np.frombuffer(content, np.float32, ITEMS * WIDTH, found["x"].offset)
    assert np.array_equal(there.reshape(ITEMS, WIDTH), numbers())
    assert places(tmp_path / "train.parquet") == {}


def test_training_from_a_file_is_training_from_memory_to_the_last_bit(
    tmp_path: Path, context: StepContext
) -> None:
    np.savez(tmp_path / "train.npz", x=numbers())
    student = models.perceptron(tmp_path / "student.onnx", sizes=(WIDTH, 32, 4), seed=9)
    context = replace(context, data={"train": tmp_path / "train.npz"})
    made, notes = [], []
    for turn, held_bytes in enumerate((1 << 20, 100)):
        work = tmp_path / f"work{turn}"
        work.mkdir()
        result = apply_step(
            student, Distill(), replace(context, work_directory=work, held_bytes=held_bytes)
        )
        made.append(result.model.read_bytes())
        notes.append(result.notes)
        assert (work / "answers.0").exists() == (turn == 1)
    assert made[0] == made[1]
    assert notes[0] == notes[1]


CHILD = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from optimizers.calibration import Arrays
from optimizers.contract.distillation import Distill, Finetune
from optimizers.contract.profile import Task
from optimizers.contract.training import Training
from optimizers.techniques import apply_step, load_all
from tests.support.contexts import step_context

load_all()  # which takes more memory than the training
home, held = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
data = {"train": home / sys.argv[3]}
context = replace(step_context(home, task=Task.REGRESSION, data=data), held_bytes=held)

def peak():  # ru_maxrss would count the parent before exec as well
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) >> 10

before = peak()
result = apply_step(home / "student.onnx", Distill(training=Training(epochs=1)), context)
assert result.modified, result.notes
print(peak() - before)
"""


def peak_mib(home: Path, held_bytes: int, name: str) -> int:
    """How far the memory of a process grows that trains on a file."""
    command = [sys.executable, "-c", CHILD, str(home), str(held_bytes), name]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return int(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["train.npy", "train.npz", "packed.npz"])
def test_training_on_a_large_file_takes_little_memory(tmp_path: Path, name: str) -> None:
    """384 MiB of items; the planted fault is to hold them."""
    items, width = 6144, 16384
    for path, seed in (("model.onnx", 0), ("student.onnx", 9)):
        models.linear(tmp_path / path, inputs=width, outputs=8, factor=0.01, seed=seed)
    x = np.empty((items, width), np.float32)
    x[:] = (np.arange(items) % 8 - 3.5)[:, None]  # quick to compress
    match name:
        case "train.npy":
            np.save(tmp_path / name, x)
        case "train.npz":
            np.savez(tmp_path / name, x=x)
        case _:
            np.savez_compressed(tmp_path / name, x=x)
    del x
    assert peak_mib(tmp_path, 64 << 20, name) < 96
    if name == "train.npy":
        assert peak_mib(tmp_path, 1 << 30, name) > 384


def test_of_two_arrays_of_one_name_the_one_that_was_checked_is_used(
    tmp_path: Path, context: StepContext
) -> None:
    with zipfile.ZipFile(tmp_path / "train.npz", "w") as archive:
        archive.writestr("x.npy", npy_bytes(numbers()))
        archive.writestr("x", npy_bytes(numbers() + 1), zipfile.ZIP_DEFLATED)
    context = replace(context, data={"train": tmp_path / "train.npz"})
    for held_bytes in (1 << 20, 1000):
        items = training_items("test", context.original, replace(context, held_bytes=held_bytes))
        assert np.array_equal(items.feeds(torch.arange(ITEMS))["x"].numpy(), numbers() + 1)


@pytest.mark.parametrize("name", ["train.PACKED.npz", "train.DOUBLE.npy", "train.parquet"])
def test_a_full_disk_is_not_blamed_on_the_data(
    tmp_path: Path, context: StepContext, name: str
) -> None:
    WRITE[name](tmp_path / name, numbers())
    (context.work_directory / "train.0.rows").symlink_to("/dev/full")
    context = replace(context, data={"train": tmp_path / name}, held_bytes=1000)
    with pytest.raises(NotSupported, match="to the job's directory: No space left on device"):
        training_items("test", context.original, context)


@dataclass(frozen=True, slots=True)
class Endless:
    """A file that says that it holds more than any disk does, as a small compressed one can."""

    count: int = 1 << 56
    classes: tuple[str, ...] = ()

    def take(self, items: int | None) -> Arrays:
        return {"x": np.zeros((items or 1, WIDTH), np.float32)}

    def labels(self, items: int | None) -> None:
        """There are none."""

    def groups(self) -> None:
        """There are none."""

    def row(self, index: int) -> str:
        return f"row {index}"


def test_what_no_disk_holds_is_refused_before_it_is_written(
    tmp_path: Path, context: StepContext
) -> None:
    with closing(Session(context.original, SessionSpec())) as session:
        signature = session.signature
    with pytest.raises(NotSupported, match=r"at most half of the [0-9]+ MiB that are free"):
        read_rows(tmp_path / "train.parquet", signature, Endless(), tmp_path, 1000)
    answers = CollectedAnswers(1 << 56, tmp_path, "answers.0", 1000)
    with pytest.raises(NotSupported, match="takes 17592186044416 MiB of disk"):
        answers.add(np.zeros((1, 64), np.float32))
    assert [path.name for path in tmp_path.glob("*.rows")] == []


def test_groups_of_training_data_are_its_clusters(tmp_path: Path, context: StepContext) -> None:
    groups = np.repeat(np.array(["b", "a"]), ITEMS // 2)
    np.savez(tmp_path / "train.npz", x=numbers(), groups=groups)
    context = replace(context, data={"train": tmp_path / "train.npz"})
    clusters = training_items("test", context.original, context).clusters
    assert clusters is not None
    assert clusters.tolist() == [1] * (ITEMS // 2) + [0] * (ITEMS // 2)


@pytest.mark.parametrize(
    "step",
    [
        Finetune(training=ONCE),
        Distill(training=ONCE),
        Sparsify(training=ONCE),
        QuantizeAware(training=ONCE),
        Binarize(training=ONCE),
    ],
    ids=step_name,
)
def test_every_step_that_trains_holds_out_whole_groups(
    tmp_path: Path, context: StepContext, step: Step
) -> None:
    """Where all items are of one group, none can be held out, and all are watched."""
    x, labels, groups = numbers()[:60], np.arange(60) % 4, np.zeros(60, np.int64)
    np.savez(tmp_path / "train.npz", x=x, labels=labels, groups=groups)
    np.savez(tmp_path / "calibration.npz", x=x)
    data = {name: tmp_path / f"{name}.npz" for name in ("train", "calibration")}
    result = apply_step(context.original, step, replace(context, data=data))
    assert any("loss of 60 held-out items" in note for note in result.notes), result.notes
