"""The report on a job's search, written by whoever ends the job."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from optimizers.contract.evaluation import Evaluation
from optimizers.contract.evidence import Evidence
from optimizers.contract.host import this_host
from optimizers.contract.job import JobSpec
from optimizers.contract.manifest import StepRecord
from optimizers.contract.runtime import SessionSpec
from optimizers.contract.study import read_explanation
from optimizers.ending import report
from optimizers.evaluation.profiler import profile
from optimizers.report.write import write_report

_log = logging.getLogger(__name__)


def report_search(
    directory: Path,
    spec: JobSpec,
    *,
    variant: Path | None = None,
    session: SessionSpec | None = None,
    evaluation: Evaluation | None = None,
    records: Sequence[StepRecord] = (),
) -> None:
    """Write `report.html` and `front.png` of a job's search, where it left an explanation.

    A report that cannot be written costs the job nothing: the log says why.

    Args:
        directory: The job's, with the search's explanation.
        spec: What it says, with data as steps may open it.
        variant: The winner's model file; None: there is none.
        session: How the winner is opened; None: where its time goes is not looked at.
        evaluation: What the final gate found; None: it has not judged.
        records: What the winner's steps did.
    """
    try:
        explanation = read_explanation(directory)
        if explanation is None:
            return
        write_report(
            directory,
            explanation,
            original=spec.original_file,
            variant=variant,
            evaluation=evaluation,
            records=records,
            evidence_after=_looked_at(variant, session, spec),
        )
    except Exception as error:  # plots and pages may raise anything
        _log.exception("the report on the search of job %s was not written", spec.id)
        report(directory, "report", 1.0, f"not written: {type(error).__name__}; see the job's log")


def _looked_at(variant: Path | None, session: SessionSpec | None, spec: JobSpec) -> Evidence | None:
    """Where the winner's time goes, never on the gate's data; None where that cannot be told."""
    if variant is None or session is None:
        return None
    host = this_host(spec.cpus)
    data = {purpose: path for purpose, path in spec.data.items() if purpose != "gate"}
    try:
        return profile(variant, session, host=host, task=spec.task, data=data, seed=spec.seed)
    except Exception:  # the rest of the report is worth having all the same
        _log.exception("where the time of the winner of job %s goes is not known", spec.id)
        return None
