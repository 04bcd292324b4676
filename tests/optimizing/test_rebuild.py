"""What a manifest says is enough to build the same bytes again."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from optimizers.contract.digests import file_sha256
from optimizers.contract.directory import seal
from optimizers.contract.distillation import Distill
from optimizers.contract.ingredients import Ingredients
from optimizers.contract.job import CANDIDATE_DIRECTORY, JobSpec, read_built, write_spec
from optimizers.contract.manifest import MANIFEST_FILE, Manifest, read_manifest
from optimizers.contract.profile import Profile
from optimizers.contract.pruning import PruneChannels
from optimizers.contract.quantization import StaticInt8
from optimizers.contract.recipe import Recipe
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.contract.training import Training
from optimizers.worker import build_only
from tests.support.digits import train_original, training_context

RECIPE = Recipe(
    steps=(
        PruneChannels(ratio=0.25, sensitivity=False),
        Distill(teacher="teacher.onnx", training=Training(epochs=1)),
        StaticInt8(),
    )
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `original.onnx` that reads digits, its teacher, its data, and `variant`."""
    directory = tmp_path_factory.mktemp("rebuild")
    context = training_context(directory)
    train_original(context)
    teacher = Path(shutil.copy(context.original, directory / "teacher.onnx"))
    spec = JobSpec(
        id="job",
        model="digits",
        version=1,
        profile=Profile(name="small", recipe=RECIPE),
        task=context.task,
        original_file=context.original,
        original_name="original.onnx",
        original_sha256=file_sha256(context.original),
        original_session=SessionSpec(),
        data=context.data,
        data_sha256={name: file_sha256(path) for name, path in context.data.items()},
        models={teacher.name: teacher},
        models_sha256={teacher.name: file_sha256(teacher)},
        seed=3,
    )
    job = directory / "job"
    job.mkdir()
    write_spec(job, spec)
    build_only(job)
    built = read_built(job)
    assert built is not None
    assert [record.modified for record in built.records] == [True, True, True], built.records
    shutil.move(job / CANDIDATE_DIRECTORY, directory / "variant")
    with closing(Session(context.original, SessionSpec())) as session:
        signature = session.signature
    seal(
        directory / "variant",
        Manifest(
            variant="",
            model=spec.model,
            version=spec.version,
            original_sha256=spec.original_sha256,
            original_file=spec.original_name,
            recipe=RECIPE,
            judged_by=spec.profile,
            session=built.session,
            signature=signature,
            records=built.records,
            created_unix_s=0.0,
            built_with=built.built_with,
            made_from=built.made_from,
        ),
    )
    return directory


def rebuild(made: Path, variant: Path, output: Path, train: str) -> tuple[int, str]:
    """The command's status and what it said."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "optimizers", "rebuild"),
            *(str(variant), str(made / "original.onnx"), "-o", str(output)),
            *("--calibration", str(made / "calibration.npz"), "--train", str(made / train)),
        ],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def resealed(made: Path, target: Path, **changes: object) -> Path:
    """The variant as if it had been made from something else."""
    shutil.copytree(made / "variant", target)
    manifest = read_manifest(target / MANIFEST_FILE)
    assert manifest.made_from is not None
    ingredients: Ingredients = replace(manifest.made_from, **changes)  # type: ignore[arg-type]
    seal(target, replace(manifest, made_from=ingredients))
    return target


def test_the_manifest_rebuilds_the_same_bytes(made: Path, tmp_path: Path) -> None:
    status, said = rebuild(made, made / "variant", tmp_path / "again", "train.npz")
    assert status == 0, said
    digest = file_sha256(made / "variant/model.onnx")
    assert said == f"model.onnx: {digest[:12]} as before\n"
    assert file_sha256(tmp_path / "again/model.onnx") == digest


def test_other_ingredients_are_named_and_other_bytes_are_seen(made: Path, tmp_path: Path) -> None:
    manifest = read_manifest(made / "variant" / MANIFEST_FILE)
    assert manifest.made_from is not None
    versions = manifest.made_from.versions | {"torch": "1.0"}
    host = replace(manifest.made_from.host, cpu_features=("avx2",))
    variant = resealed(
        made, tmp_path / "variant", seed=4, versions=versions, host=host, code_sha256="f"
    )
    status, said = rebuild(made, variant, tmp_path / "again", "train.npz")
    assert status == 3, said
    assert f"torch was 1.0, is {manifest.made_from.versions['torch']}\n" in said
    assert "CPU features differ: " in said
    assert "the optimisers' own code has changed\n" in said
    assert f", was {file_sha256(variant / 'model.onnx')[:12]}\n" in said


def test_other_data_is_refused_before_anything_is_built(made: Path, tmp_path: Path) -> None:
    with np.load(made / "train.npz") as stored:
        np.savez(made / "other.npz", x=stored["x"][:100])
    status, said = rebuild(made, made / "variant", tmp_path / "again", "other.npz")
    assert status == 1
    assert said.startswith("hone: data.train (other.npz) is not what it was built with")
    assert not (tmp_path / "again").exists()


def test_another_teacher_is_refused(made: Path, tmp_path: Path) -> None:
    variant = resealed(made, tmp_path / "variant", models_sha256={"teacher.onnx": "7e" * 32})
    status, said = rebuild(made, variant, tmp_path / "again", "train.npz")
    assert status == 1
    assert said == "hone: teacher.onnx is not the model that it was built with\n"
