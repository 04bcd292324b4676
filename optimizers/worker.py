"""`python -m optimizers worker JOB_DIR`: builds and judges one job.

A supervisor runs two children, one after the other: the first builds at the lowest priority and
within the memory limit, the second measures at normal priority. They share nothing but the job's
directory, so either can be killed at any moment and the job can be taken up again.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

from numpy.typing import NDArray

from optimizers.calibration import load_arrays
from optimizers.contract.data_files import ImageFolder, data_sha256, write_image_folder
from optimizers.contract.difference import largest_magnitude
from optimizers.contract.directory import seal, write_golden
from optimizers.contract.errors import (
    HoneError,
    InvalidData,
    InvalidModel,
    NotSupported,
    OutOfMemory,
)
from optimizers.contract.evaluation import Check, Evaluation, Gate, Verdict
from optimizers.contract.host import this_host
from optimizers.contract.job import (
    CANDIDATE_DIRECTORY,
    DATA_DIRECTORY,
    GATE_OPENED_FILE,
    LOG_FILE,
    VARIANT_DIRECTORY,
    JobResult,
    JobSpec,
    JobState,
    Progress,
    append_progress,
    last_progress,
    read_built,
    read_result,
    read_spec,
    write_built,
    write_result,
)
from optimizers.contract.manifest import MODEL_FILE, Golden, Manifest
from optimizers.contract.onnx_file import read_onnx_file
from optimizers.contract.processors import processors_for_workers
from optimizers.contract.profile import Task
from optimizers.contract.runtime import Feeds, Session, SessionSpec
from optimizers.contract.samples import random_feeds
from optimizers.evaluation.disjoint import check_disjoint, not_compared
from optimizers.evaluation.labelled import check_labelled
from optimizers.evaluation.named import check_models
from optimizers.process import (
    PARENT_VARIABLE,
    die_with_parent,
    limit_memory,
    lower_priority,
)
from optimizers.untouched import Untouched

Stage = Literal["build", "measure"]

_BUILDING: Final = 0.4
_STARTS: Final[dict[Stage, float]] = {"build": 0.0, "measure": _BUILDING}
_GOLDEN_ITEMS: Final = 8
_GOLDEN_TOLERANCE: Final = 1e-3
_VERDICT_STATES: Final = {
    Verdict.PROVED: JobState.SUCCEEDED,
    Verdict.NOT_JUDGED: JobState.SUCCEEDED,
    Verdict.REFUSED: JobState.REFUSED,
    Verdict.AWAITING_MEASUREMENT: JobState.AWAITING_MEASUREMENT,
}


def supervise(directory: Path) -> JobResult:
    """Run both children of a job and make sure that a result is written."""
    for stage in _STARTS:
        result = _run_child(directory, stage)
        if result is not None:
            return result
    return _end(directory, JobState.FAILED, "the worker ended without a verdict")


def build_only(directory: Path) -> None:
    """Run the first child alone: leaves the candidate, unjudged.

    Raises:
        NotSupported: The build failed, or its recipe changes nothing; the text says why.
    """
    result = _run_child(directory, "build")
    if result is not None:
        raise NotSupported(result.reason)


def _run_child(directory: Path, stage: Stage) -> JobResult | None:
    """Run one child to its end; None if the job goes on after it."""
    # Importing the tools takes seconds in which the job must not look dead.
    _report(directory, "starting", _STARTS[stage], stage)
    environment = {
        **os.environ,
        **processors_for_workers(),
        PARENT_VARIABLE: str(os.getpid()),
    }
    command = [sys.executable, "-m", "optimizers", "worker", str(directory), "--stage", stage]
    limit_s = read_spec(directory).build_timeout_s if stage == "build" else 0.0
    try:
        with (directory / LOG_FILE).open("ab") as log:
            done = subprocess.run(
                command,
                env=environment,
                stdout=log,
                stderr=log,
                check=False,
                timeout=limit_s or None,
            )
    except subprocess.TimeoutExpired:
        progress = last_progress(directory)
        at = progress.stage if progress is not None else stage
        reason = f"building took longer than its limit of {limit_s:g} s; it was ended in {at}"
        return read_result(directory) or _end(directory, JobState.FAILED, reason)
    result = read_result(directory)
    if result is None and done.returncode != 0:
        return _end(directory, JobState.FAILED, _why(directory, stage, done.returncode))
    return result


def run_stage(directory: Path, stage: Stage) -> None:
    """Be one of the children: do the work and write a result if it ends the job."""
    die_with_parent()
    spec = read_spec(directory)
    try:
        if stage == "build":
            lower_priority(leader=os.getppid())
            _build(directory, spec)
        else:
            _measure(directory, spec)
    except (MemoryError, OutOfMemory):
        _end(directory, JobState.FAILED, _out_of_memory(spec, stage))
    except HoneError as error:
        _end(directory, JobState.FAILED, str(error))
    except OSError as error:
        # A full disk may refuse this as well; then the supervisor's own attempt tells.
        name = Path(error.filename).name if isinstance(error.filename, str) else ""
        reason = f"{stage}: {error.strerror or error} {name}".rstrip()
        if error.errno == errno.ENOMEM:
            reason = _out_of_memory(spec, stage)
        _end(directory, JobState.FAILED, reason)


def _out_of_memory(spec: JobSpec, stage: Stage) -> str:
    limit = f"{spec.memory_limit_bytes >> 20} MiB" if spec.memory_limit_bytes else "this machine"
    return f"out of memory while running {stage}; limit: {limit}"


def _build(directory: Path, spec: JobSpec) -> None:
    # Heavy, and only this child needs it; before the limit, as OpenBLAS starts for ever under one
    # that is too low.
    from optimizers.pipeline import build

    limit_memory(spec.memory_limit_bytes)
    if read_built(directory) is not None:
        return
    _report(directory, "checking", 0.0, "")
    untouched = Untouched(spec)
    checked = _checked_data(directory, spec)
    untouched.check()
    spec = replace(spec, data=checked)
    built = build(
        directory,
        spec,
        this_host(spec.cpus),
        lambda stage, share, text: _report(directory, stage, _BUILDING * share, text),
        untouched,
    )
    if not any(record.modified for record in built.records):
        notes = "; ".join(note for record in built.records for note in record.notes)
        _end(directory, JobState.REFUSED, f"the recipe changes nothing: {notes}")
        return
    write_built(directory, built)


def _checked_data(directory: Path, spec: JobSpec) -> dict[str, Path]:
    """Make sure that model and data are what was submitted, and that the gate's is its own.

    Returns:
        See `_data_of`.

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
    data = _data_of(directory, spec)
    if spec.task is Task.CLASSIFICATION:
        check_labelled(data, signature)
    check_disjoint(data, spec.data_sha256, signature)
    return data


def _data_of(directory: Path, spec: JobSpec) -> dict[str, Path]:
    """Purpose → what a step may open: a file as it is, a folder by how its images are read."""
    home = directory / DATA_DIRECTORY
    home.mkdir(exist_ok=True)
    return {
        name: write_image_folder(home, name, ImageFolder(path=path, preprocess=spec.preprocess))
        if path.is_dir()
        else path
        for name, path in spec.data.items()
    }


def _measure(directory: Path, spec: JobSpec) -> None:
    # Heavy, and only this child needs them; before the limit as well.
    from optimizers.evaluation.gates import judge
    from optimizers.evaluation.series import Unstable
    from optimizers.evaluation.subject import Subject

    limit_memory(spec.memory_limit_bytes)
    built = read_built(directory)
    if built is None:
        raise InvalidModel("the candidate is not complete; submit the job again")
    spec = replace(spec, data=_data_of(directory, spec))
    candidate = directory / CANDIDATE_DIRECTORY
    gate = spec.data.get("gate")
    if gate is not None:
        (directory / GATE_OPENED_FILE).touch()
    subject = Subject(
        original=spec.original_file,
        original_session=spec.original_session,
        variant=candidate / MODEL_FILE,
        session=built.session,
        goal=spec.profile.goal,
        task=spec.task,
        gate_data=gate,
        gate_sha256=spec.data_sha256.get("gate", ""),
        gate_use=spec.gate_use,
        host=this_host(spec.cpus),
        seed=spec.seed,
        measure_timeout_s=spec.measure_timeout_s,
    )
    try:
        judgement = judge(
            subject,
            lambda stage, share, text: _report(
                directory, stage, _BUILDING + (1 - _BUILDING) * share, text
            ),
        )
    except Unstable as error:
        _end(directory, JobState.AWAITING_MEASUREMENT, str(error))
        return
    variant = directory / VARIANT_DIRECTORY
    shutil.rmtree(variant, ignore_errors=True)
    shutil.copytree(candidate, variant)
    with closing(Session(spec.original_file, spec.original_session)) as original:
        signature = original.signature
    evaluation = _noting(judgement.evaluation, not_compared(spec.data, signature))
    golden = None
    if evaluation.verdict is not Verdict.REFUSED:
        golden = _write_golden(variant, spec, judgement.session)
    sealed = seal(
        variant,
        Manifest(
            variant="",
            model=spec.model,
            version=spec.version,
            original_sha256=spec.original_sha256,
            original_file=spec.original_name,
            profile=spec.profile.name,
            judged_by=spec.profile,
            job=spec.id,
            recipe=spec.profile.recipe,
            records=built.records,
            session=judgement.session,
            signature=signature,
            golden=golden,
            evaluation=evaluation,
            created_unix_s=time.time(),
            built_with=built.built_with,
            made_from=built.made_from,
            largest_batch_difference=judgement.batch_difference,
        ),
    )
    shutil.rmtree(candidate)
    _report(directory, "sealed", 1.0, str(evaluation.verdict))
    reason = "; ".join(evaluation.reasons)
    _end(directory, _VERDICT_STATES[evaluation.verdict], reason, sealed.manifest.variant)


def _noting(evaluation: Evaluation, notes: Sequence[str]) -> Evaluation:
    """An evaluation with what holds only as far as it could be looked at."""
    noted = tuple(Check(gate=Gate.FIDELITY, passed=True, text=note) for note in notes)
    return replace(evaluation, checks=(*noted, *evaluation.checks))


def _write_golden(variant: Path, spec: JobSpec, session_spec: SessionSpec) -> Golden:
    """Store a few items and the variant's answers to them, computed in one run."""
    with closing(Session(variant / MODEL_FILE, session_spec)) as session:
        feeds = _golden_items(session, spec)
        outputs = session.run(feeds)
        names = [output.name for output in session.signature.outputs]
    answers = dict(zip(names, outputs, strict=True))
    write_golden(variant, feeds, answers)
    tolerance = {name: golden_tolerance(array) for name, array in answers.items()}
    items = len(next(iter(answers.values()))) if session.signature.has_batch_dimension else 1
    return Golden(items=items, tolerance=tolerance)


def golden_tolerance(answers: NDArray[Any]) -> float:
    """How far from these a server's own answers may lie; finite, as JSON knows no infinity."""
    if answers.dtype.kind != "f":
        return 0.0
    return _GOLDEN_TOLERANCE * max(1e-6, largest_magnitude(answers))


def _golden_items(session: Session, spec: JobSpec) -> Feeds:
    rows = _GOLDEN_ITEMS if session.signature.has_batch_dimension else 1
    gate = spec.data.get("gate")
    if gate is None:
        return random_feeds(session.signature, rows, seed=spec.seed)
    items, _ = load_arrays(gate, session.signature, rows)
    return items


def _report(directory: Path, stage: str, fraction: float, text: str) -> None:
    append_progress(
        directory, Progress(unix_s=time.time(), stage=stage, fraction=fraction, text=text)
    )


def _end(directory: Path, state: JobState, reason: str = "", variant: str = "") -> JobResult:
    result = JobResult(state=state, reason=reason, variant=variant, finished_unix_s=time.time())
    write_result(directory, result)
    return result


def _why(directory: Path, stage: Stage, code: int) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"the process of stage {stage} was ended by {name}{hint}"
    lines = (directory / LOG_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
    return f"stage {stage} ended with status {code}: {last[:300]}"
