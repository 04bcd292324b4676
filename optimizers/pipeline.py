"""One recipe, one candidate: runs the steps in order and says what each did."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from optimizers.artefacts import Artefact, copy_model
from optimizers.contract.errors import HoneError, NotSupported
from optimizers.contract.host import Host
from optimizers.contract.ingredients import (
    Ingredients,
    code_sha256,
    installed_versions,
    step_keys,
)
from optimizers.contract.job import CANDIDATE_DIRECTORY, Built, JobSpec
from optimizers.contract.manifest import StepRecord
from optimizers.contract.runtime import SessionSpec
from optimizers.contract.steps import Step, step_name
from optimizers.reuse import Reuse
from optimizers.step import StepContext, StepResult
from optimizers.techniques import apply_step
from optimizers.untouched import Untouched

_Given = TypeVar("_Given")

Report = Callable[[str, float, str], None]
"""Takes the stage, the share of the build that is done, and a text."""


def build(
    directory: Path, spec: JobSpec, host: Host, report: Report, untouched: Untouched
) -> Built:
    """Run a job's recipe and leave the candidate's files in `directory/candidate`.

    Steps whose outcome lies in the job's cache are not run again.

    Args:
        directory: The job's.
        spec: What to build; data as steps may open it.
        host: This machine.
        report: Takes progress.
        untouched: Knows what the files that steps read were when their digests were checked.

    Raises:
        HoneError: A step failed; the text names it and those before it.
        InvalidData: A file that steps read was changed meanwhile.
    """
    steps = spec.profile.recipe.steps
    ingredients = _ingredients(spec, host)
    reuse = Reuse(spec, step_keys(ingredients, steps))
    shutil.rmtree(directory / "work", ignore_errors=True)
    made = reuse.longest(directory / "work" / "taken")
    if made.records:
        index = len(made.records) - 1
        report(step_name(steps[index]), (index + 1) / len(steps), reuse.notes[index][-1])
    for index in range(len(made.records), len(steps)):
        step = steps[index]
        work = directory / "work" / f"{index}-{step_name(step)}"
        work.mkdir(parents=True)
        context = _context(work, made.session, spec, host, report, index)
        result = _run(step, made.model, context, made.records)
        untouched.check()
        record = StepRecord(step=step_name(step), modified=result.modified, notes=result.notes)
        made = Artefact(model=result.model, session=result.session, records=(*made.records, record))
        reuse.keep(index, made)
    candidate = directory / CANDIDATE_DIRECTORY
    shutil.rmtree(candidate, ignore_errors=True)
    candidate.mkdir()
    copy_model(made.model, candidate)
    shutil.rmtree(directory / "work", ignore_errors=True)
    return Built(
        recipe=spec.profile.recipe,
        session=made.session,
        records=reuse.noted(made.records),
        built_with=ingredients.versions,
        made_from=ingredients,
    )


def _run(
    step: Step, model: Path, context: StepContext, records: Sequence[StepRecord]
) -> StepResult:
    try:
        return apply_step(model, step, context)
    except (HoneError, OSError, MemoryError):
        raise
    except Exception as error:  # libraries of the techniques raise anything
        before = ", ".join(record.step for record in records)
        after = f" after {before}" if before else ""
        raise NotSupported(
            f"step {step_name(step)} failed{after}: {type(error).__name__}: {error}"
        ) from error


def _context(
    work: Path, session: SessionSpec, spec: JobSpec, host: Host, report: Report, index: int
) -> StepContext:
    count = len(spec.profile.recipe.steps)
    name = step_name(spec.profile.recipe.steps[index])
    return StepContext(
        work_directory=work,
        original=spec.original_file,
        host=host,
        session=session,
        goal=spec.profile.goal,
        task=spec.task,
        data=_for_steps(spec.data),
        models=spec.models,
        seed=spec.seed,
        report=lambda share, text: report(name, (index + share) / count, text),
    )


def _ingredients(spec: JobSpec, host: Host) -> Ingredients:
    return Ingredients(
        task=spec.task,
        seed=spec.seed,
        original_sha256=spec.original_sha256,
        original_session=spec.original_session,
        data_sha256=_for_steps(spec.data_sha256),
        models_sha256=spec.models_sha256,
        host=host,
        versions=installed_versions(),
        code_sha256=code_sha256(),
    )


def _for_steps(data: Mapping[str, _Given]) -> dict[str, _Given]:
    """All data but the gate's."""
    return {purpose: given for purpose, given in data.items() if purpose != "gate"}
