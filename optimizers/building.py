"""The process that builds: one recipe of a job, or one of many that a search tries."""

from __future__ import annotations

import json
import os
import sys
import traceback
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from optimizers.contract.data_files import ImageFolder, data_sha256, write_image_folder
from optimizers.contract.errors import InvalidData, InvalidModel
from optimizers.contract.host import this_host
from optimizers.contract.job import (
    DATA_DIRECTORY,
    JobSpec,
    JobState,
    read_built,
    read_spec,
    write_built,
)
from optimizers.contract.onnx_file import read_onnx_file
from optimizers.contract.profile import Task
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.ending import end, errors_end, report
from optimizers.evaluation.disjoint import check_disjoint
from optimizers.evaluation.labelled import check_labelled
from optimizers.evaluation.named import check_models
from optimizers.pipeline import build
from optimizers.process import die_with_parent, limit_memory, lower_priority
from optimizers.untouched import Untouched


def build_job(directory: Path, spec: JobSpec, share: float) -> None:
    """Check what a job works with, run its recipe, and leave the candidate.

    Args:
        directory: The job's.
        spec: What it says.
        share: Of the job's progress, in (0, 1], that building is.

    Raises:
        HoneError: Model or data are not what was submitted, or a step failed.
    """
    limit_memory(spec.memory_limit_bytes)
    if read_built(directory) is not None:
        return
    report(directory, "checking", 0.0, "")
    untouched = Untouched(spec)
    checked = checked_data(directory, spec)
    untouched.check()
    built = build(
        directory,
        replace(spec, data=checked),
        this_host(spec.cpus),
        lambda stage, done, text: report(directory, stage, share * done, text),
    )
    if not any(record.modified for record in built.records):
        notes = "; ".join(note for record in built.records for note in record.notes)
        end(directory, JobState.REFUSED, f"the recipe changes nothing: {notes}")
        return
    write_built(directory, built)


def build_trial(directory: Path, job: Path, said: str, fraction: float, parent: int) -> None:
    """Be the process that builds one recipe of a search: lowered, and within the memory limit.

    It leaves `candidate/` and `built.json` in a directory of its own, or `result.json` with the
    reason why not. Model and data were checked when the search began.

    Args:
        directory: Of this recipe, with a `spec.json`.
        job: Directory of the search's job, which is told of progress.
        said: What is built, for people.
        fraction: Of the job that is done.
        parent: Id of the process that must live.
    """
    die_with_parent(parent)
    lower_priority()
    spec = read_spec(directory)
    with errors_end(directory, spec, "build"):
        limit_memory(spec.memory_limit_bytes)
        built = build(
            directory,
            spec,
            this_host(spec.cpus),
            lambda stage, _, text: report(job, "search", fraction, f"{said}, {stage} {text}"),
        )
        write_built(directory, built)


def checked_data(directory: Path, spec: JobSpec) -> dict[str, Path]:
    """Make sure that model and data are what was submitted, and that the gate's is its own.

    Returns:
        See `data_of`.

    Raises:
        InvalidModel: The original was overwritten, or a model that the recipe names; or such a
            model does not fit.
        InvalidData: A data file changed, does not fit, or shares items with the gate's.
    """
    if read_onnx_file(spec.original_file).sha256() != spec.original_sha256:
        raise InvalidModel(
            f"{spec.original_name} was overwritten since the job was submitted; submit it again"
        )
    for name, path in spec.data.items():
        if not path.exists() or data_sha256(path, spec.preprocess) != spec.data_sha256[name]:
            raise InvalidData(
                f"data.{name} ({path.name}) changed since the job was submitted; submit it again"
            )
    for name, path in spec.models.items():
        if not path.exists() or read_onnx_file(path).sha256() != spec.models_sha256[name]:
            raise InvalidModel(f"{name} changed since the job was submitted; submit it again")
    with closing(Session(spec.original_file, SessionSpec())) as original:
        signature = original.signature
    check_models(spec.profile.recipe, spec.models, signature)
    data = data_of(directory, spec)
    if spec.task is Task.CLASSIFICATION:
        check_labelled(data, signature)
    check_disjoint(data, spec.data_sha256, signature)
    return data


def data_of(directory: Path, spec: JobSpec) -> dict[str, Path]:
    """Purpose → what a step may open: a file as it is, a folder by how its images are read."""
    home = directory / DATA_DIRECTORY
    home.mkdir(exist_ok=True)
    return {
        name: write_image_folder(home, name, ImageFolder(path=path, preprocess=spec.preprocess))
        if path.is_dir()
        else path
        for name, path in spec.data.items()
    }


def serve_trials() -> None:
    """Be the process that has the tools loaded and starts a child for each recipe of a search.

    Loading them takes seconds, a child that has them is there at once. Each line of the standard
    input is a JSON list of what `build_trial` takes; answered are the child's process id and, when
    it has ended, its exit code, each on a line.
    """
    die_with_parent()
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # what steps print goes to the log
    for line in sys.stdin:
        directory, job, said, fraction = json.loads(line)
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                build_trial(Path(directory), Path(job), said, fraction, parent)
                code = 0
            except BaseException:  # a fork must not go on with what its parent does
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(child, file=answers, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


if __name__ == "__main__":
    serve_trials()
