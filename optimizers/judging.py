"""The process that judges: takes a job's candidate through the gates and seals the variant."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from optimizers.calibration import load_arrays
from optimizers.checking import data_of
from optimizers.contract.difference import largest_magnitude
from optimizers.contract.directory import seal, write_golden
from optimizers.contract.errors import InvalidModel
from optimizers.contract.evaluation import Check, Evaluation, Gate, Verdict
from optimizers.contract.host import this_host
from optimizers.contract.job import (
    CANDIDATE_DIRECTORY,
    GATE_OPENED_FILE,
    VARIANT_DIRECTORY,
    Built,
    JobSpec,
    JobState,
    read_built,
)
from optimizers.contract.manifest import MODEL_FILE, Golden, Manifest
from optimizers.contract.runtime import Feeds, Session, SessionSpec
from optimizers.contract.samples import random_feeds
from optimizers.ending import end, report
from optimizers.evaluation.disjoint import not_compared
from optimizers.evaluation.gates import Judgement, judge
from optimizers.evaluation.series import Unstable
from optimizers.evaluation.subject import Subject
from optimizers.process import limit_memory

_GOLDEN_ITEMS: Final = 8
_GOLDEN_TOLERANCE: Final = 1e-3
_VERDICT_STATES: Final = {
    Verdict.PROVED: JobState.SUCCEEDED,
    Verdict.NOT_JUDGED: JobState.SUCCEEDED,
    Verdict.REFUSED: JobState.REFUSED,
    Verdict.AWAITING_MEASUREMENT: JobState.AWAITING_MEASUREMENT,
}


def judge_job(directory: Path, spec: JobSpec, share: float) -> None:
    """Judge the candidate in a job's directory once, and seal what it is judged to be.

    Args:
        directory: The job's.
        spec: What it says.
        share: Of the job's progress, in [0, 1), that is behind it.

    Raises:
        InvalidModel: There is no complete candidate.
        HoneError: It could not be judged.
    """
    limit_memory(spec.memory_limit_bytes)
    built = read_built(directory)
    if built is None:
        raise InvalidModel("the candidate is not complete; submit the job again")
    spec = replace(spec, data=data_of(directory, spec))
    try:
        judgement = _judged(directory, spec, built, share)
    except Unstable as error:
        end(directory, JobState.AWAITING_MEASUREMENT, str(error))
        return
    variant = _sealed(directory, spec, built, judgement)
    shutil.rmtree(directory / CANDIDATE_DIRECTORY)
    evaluation = judgement.evaluation
    reason = "; ".join(evaluation.reasons)
    if spec.profile.search is not None:
        reason += _told_search(directory, spec, built, judgement, reason)
    report(directory, "sealed", 1.0, str(evaluation.verdict))
    end(directory, _VERDICT_STATES[evaluation.verdict], reason, variant)


def _told_search(
    directory: Path, spec: JobSpec, built: Built, judgement: Judgement, reason: str
) -> str:
    """Write the report of a search and keep its winner's refusal; what there is to add to that."""
    from optimizers.reporting import report_search  # these take a second
    from optimizers.search.refusals import note_refusal

    report_search(
        directory,
        spec,
        variant=directory / VARIANT_DIRECTORY / MODEL_FILE,
        session=judgement.session,
        evaluation=judgement.evaluation,
        records=built.records,
    )
    refused = judgement.evaluation.verdict is Verdict.REFUSED
    if refused and note_refusal(directory, spec, reason):
        return "; resume the search to look for another winner"
    return ""


def _judged(directory: Path, spec: JobSpec, built: Built, share: float) -> Judgement:
    gate = spec.data.get("gate")
    if gate is not None:
        (directory / GATE_OPENED_FILE).touch()
    subject = Subject(
        original=spec.original_file,
        original_session=spec.original_session,
        variant=directory / CANDIDATE_DIRECTORY / MODEL_FILE,
        session=built.session,
        goal=spec.profile.goal,
        task=spec.task,
        gate_data=gate,
        gate_sha256=spec.data_sha256.get("gate", ""),
        gate_use=spec.gate_use,
        host=this_host(spec.cpus),
        seed=spec.seed,
        measure_timeout_s=spec.measure_timeout_s,
        price=spec.price,
    )
    judgement = judge(
        subject,
        lambda stage, done, text: report(directory, stage, share + (1 - share) * done, text),
    )
    with closing(Session(spec.original_file, spec.original_session)) as original:
        notes = not_compared(spec.data, original.signature)
    return replace(judgement, evaluation=_noting(judgement.evaluation, notes))


def _noting(evaluation: Evaluation, notes: Sequence[str]) -> Evaluation:
    """An evaluation with what holds only as far as it could be looked at."""
    noted = tuple(Check(gate=Gate.FIDELITY, passed=True, text=note) for note in notes)
    return replace(evaluation, checks=(*noted, *evaluation.checks))


def _sealed(directory: Path, spec: JobSpec, built: Built, judgement: Judgement) -> str:
    """Make the variant's directory; returns its id."""
    variant = directory / VARIANT_DIRECTORY
    shutil.rmtree(variant, ignore_errors=True)
    shutil.copytree(directory / CANDIDATE_DIRECTORY, variant)
    evaluation = judgement.evaluation
    with closing(Session(spec.original_file, spec.original_session)) as original:
        signature = original.signature
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
            judged_by=spec.profile.without_secrets(),
            job=spec.id,
            recipe=built.recipe,
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
    return sealed.manifest.variant


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
