"""The process that searches: looks at the model, tries recipes, leaves the best one's candidate.

It never sees the gate's data: what judges the winner is checked to be nobody else's, and then
left out of all that the search is given.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from optimizers.calibration import open_data
from optimizers.checking import checked_data, data_of
from optimizers.contract.errors import InvalidData
from optimizers.contract.evidence import Evidence
from optimizers.contract.job import (
    CANDIDATE_DIRECTORY,
    LOG_FILE,
    JobSpec,
    JobState,
    read_built,
    write_built,
)
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.contract.study import Explanation, TrialState, read_explanation, write_explanation
from optimizers.ending import end, report
from optimizers.evaluation.disjoint import check_disjoint
from optimizers.evaluation.profiler import profile
from optimizers.planner import propose
from optimizers.process import PARENT_VARIABLE
from optimizers.reporting import report_search
from optimizers.search.naming import study_name
from optimizers.search.objectives import objectives, violation
from optimizers.search.sampling import Known
from optimizers.search.satisfiable import unsatisfiable
from optimizers.search.workbench import (
    SEARCH_DIRECTORY,
    Bench,
    Part,
    opened_bench,
    opened_part,
)
from optimizers.untouched import Untouched

_CANNOT_BE_MET: Final = "no recipe can meet the goal"


def search_job(directory: Path, spec: JobSpec, share: float) -> None:
    """Search for a job's recipe and leave the winner's candidate, or a result that says why not.

    A search that was killed goes on where it was.

    Args:
        directory: The job's.
        spec: What it says; its profile has a search.
        share: Of the job's progress, in (0, 1], that searching is.

    Raises:
        HoneError: Model or data are not what was submitted, or nothing can be searched.
    """
    if read_built(directory) is not None:
        return
    report(directory, "checking", 0.0, "")
    untouched = Untouched(spec)
    data = checked_data(directory, spec)
    untouched.check()
    counts = _checked_for_search(spec, data)
    shutil.rmtree(directory / SEARCH_DIRECTORY / "recipes", ignore_errors=True)
    with opened_bench(directory, spec, data) as bench:
        frame, evidence = _frame(bench, counts)
        if frame.unsatisfiable:
            write_explanation(directory, replace(frame, ended_because=_CANNOT_BE_MET))
            _refuse(bench, f"{_CANNOT_BE_MET}: {'; '.join(frame.unsatisfiable)}")
            return
        _search(bench, frame, evidence, share, untouched)


def assist(directory: Path, spec: JobSpec) -> None:
    """Be a further process of a search that another one has begun.

    Raises:
        HoneError: It cannot take part.
    """
    frame = read_explanation(directory)
    if frame is None or frame.evidence is None:
        raise InvalidData(f"{directory.name} has no search to assist in")
    with (
        opened_bench(directory, spec, data_of(directory, spec)) as bench,
        opened_part(bench, frame, frame.evidence, share=1.0, submission="") as part,
    ):
        part.study.run()


def _checked_for_search(spec: JobSpec, data: dict[str, Path]) -> dict[str, int]:
    """Make sure that the search's data is its own; how many items there are for each purpose.

    Raises:
        InvalidData: There is none, or what steps learn from shares items with it.
    """
    if "search" not in data:
        raise InvalidData("a search judges its trials on data.search; name that data in hone.yaml")
    with closing(Session(spec.original_file, SessionSpec())) as original:
        signature = original.signature
    check_disjoint(data, spec.data_sha256, signature, judging="search")
    counts = {}
    for purpose, path in data.items():
        with open_data(path, signature) as file:
            counts[purpose] = file.count
    return counts


def _frame(bench: Bench, counts: dict[str, int]) -> tuple[Explanation, Evidence]:
    """What does not change while a search goes on; looked at once for each job."""
    spec, search, goal = bench.spec, bench.search, bench.assessor.goal
    study = study_name(spec, search, bench.host)
    former = read_explanation(bench.directory)
    if former is not None and former.study == study and former.evidence is not None:
        return replace(former, ended_because=""), former.evidence
    report(bench.directory, "profiling", 0.0, "")
    evidence = profile(
        spec.original_file,
        spec.original_session,
        host=bench.host,
        task=spec.task,
        data=spec.data,
        seed=spec.seed,
    )
    frame = Explanation(
        study=study,
        model=spec.model,
        version=spec.version,
        profile=spec.profile,
        evidence=evidence,
        proposals=propose(evidence, goal, search) if search.planner else (),
        data=counts,
        unsatisfiable=unsatisfiable(goal, evidence, bench.assessor.original_figures(), search),
    )
    write_explanation(bench.directory, frame)
    return frame, evidence


def _search(
    bench: Bench, frame: Explanation, evidence: Evidence, share: float, untouched: Untouched
) -> None:
    submission = f"{bench.spec.id}@{bench.spec.submitted_unix_s}"
    with opened_part(bench, frame, evidence, share=share, submission=submission) as part:
        _prepare(bench, frame, part)
        with _assistants(bench):
            ended = part.study.run()
        untouched.check()
        part.study.settle()
        told = part.chronicle.close(ended, seconds=part.study.seconds)
        if told.winner is None:
            reason = f"no recipe was found that holds the goal: {ended}"
            _refuse(bench, f"{reason}; {told.nearest_miss}".rstrip("; "))
            return
        recipe, said = told.trial(told.winner).recipe, f"the winner, trial {told.winner}"
        with part.candidates.built(recipe, said, lambda: math.inf) as candidate:
            target = bench.directory / CANDIDATE_DIRECTORY
            shutil.rmtree(target, ignore_errors=True)
            shutil.move(candidate.model.parent, target)
            write_built(bench.directory, candidate.built)


def _refuse(bench: Bench, reason: str) -> None:
    report_search(bench.directory, bench.spec)
    end(bench.directory, JobState.REFUSED, reason)


def _prepare(bench: Bench, frame: Explanation, part: Part) -> None:
    """Have the sampler know what is known: the planner's proposals, and earlier studies."""
    goal, sampling = bench.assessor.goal, part.memory.sampling
    for proposal in frame.proposals:
        sampling.enqueue(proposal.recipe, f"planner: {proposal.reason}")
    sampling.warm(
        Known(
            recipe=trial.recipe,
            values=objectives(goal, trial.figures),
            violation=violation(goal, trial.figures),
        )
        for trial in part.memory.ledger.of_other_studies()
        if trial.state is TrialState.COMPLETE
        and all(map(math.isfinite, objectives(goal, trial.figures)))
    )


@contextmanager
def _assistants(bench: Bench) -> Iterator[None]:
    """The search's further processes, which end with the block."""
    command = [sys.executable, "-m", "optimizers", "worker", str(bench.directory)]
    command += ["--stage", "assist"]
    environment = {**os.environ, PARENT_VARIABLE: str(os.getpid())}
    running: list[subprocess.Popen[bytes]] = []
    with (bench.directory / LOG_FILE).open("ab") as log:
        try:
            for _ in range(bench.search.workers - 1):
                process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
                running.append(process)
            yield
        finally:
            for process in running:
                process.kill()
                process.wait()
