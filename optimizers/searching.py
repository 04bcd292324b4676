"""The process that searches: looks at the model, tries recipes, leaves the best one's candidate.

It never sees the gate's data: what judges the winner is checked to be nobody else's, and then
left out of all that the search is given.
"""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from optimizers.artefacts import Artefacts
from optimizers.assistants import assistants
from optimizers.calibration import open_data
from optimizers.checking import checked_data, data_of
from optimizers.contract.errors import InvalidData
from optimizers.contract.evidence import Evidence
from optimizers.contract.job import (
    CANDIDATE_DIRECTORY,
    LOG_FILE,
    Built,
    JobSpec,
    JobState,
    read_built,
    write_built,
)
from optimizers.contract.manifest import MODEL_FILE
from optimizers.contract.recipe import Recipe
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.contract.study import Explanation, TrialState, read_explanation, write_explanation
from optimizers.ending import end, report
from optimizers.evaluation.disjoint import check_disjoint
from optimizers.evaluation.profiler import profile
from optimizers.planner import propose
from optimizers.reporting import report_search
from optimizers.search.naming import study_name
from optimizers.search.objectives import objectives, violation
from optimizers.search.refusals import forget_other_refusals, let_back_in
from optimizers.search.sampling import Known
from optimizers.search.satisfiable import unsatisfiable
from optimizers.search.sharing import end_study, publish
from optimizers.search.space import space_of
from optimizers.search.workbench import (
    SEARCH_DIRECTORY,
    Bench,
    Part,
    Visit,
    opened_bench,
    opened_part,
)
from optimizers.untouched import Untouched

_LONGEST_FAREWELL_S: Final = 60.0
_LOOK_EVERY_S: Final = 0.5
_TOLD_EVERY_S: Final = 10.0
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
        _search(bench, frame, evidence, share, untouched, spec.data_sha256.get("gate", ""))


def assist(directory: Path, spec: JobSpec, visit: Visit | None = None) -> str:
    """Be a further process of a search that another one has begun; returns why it has ended.

    Args:
        directory: The job's, with an explanation that has the search's evidence.
        spec: What it says.
        visit: Of a process on another machine than the job's.

    Raises:
        HoneError: It cannot take part.
    """
    frame = read_explanation(directory)
    if frame is None or frame.evidence is None:
        raise InvalidData(f"{directory.name} has no search to assist in")
    with (
        opened_bench(directory, spec, data_of(directory, spec), visit) as bench,
        opened_part(bench, frame, frame.evidence, share=1.0, submission="") as part,
    ):
        return part.study.run()


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

    def name(evidence: Evidence) -> str:
        return study_name(spec, search, bench.host, space_of(evidence, goal, search))

    former = None
    with suppress(InvalidData):  # written by another Hone: then the model is looked at again
        former = read_explanation(bench.directory)
    if former is not None and former.evidence is not None and former.study == name(former.evidence):
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
        study=name(evidence),
        model=spec.model,
        version=spec.version,
        profile=spec.profile.without_secrets(),
        evidence=evidence,
        proposals=propose(evidence, goal, search) if search.planner else (),
        data=counts,
        unsatisfiable=unsatisfiable(goal, evidence, bench.assessor.original_figures(), search),
    )
    write_explanation(bench.directory, frame)
    return frame, evidence


def _search(
    bench: Bench,
    frame: Explanation,
    evidence: Evidence,
    share: float,
    untouched: Untouched,
    gate_sha256: str,
) -> None:
    submission = f"{bench.spec.id}@{bench.spec.submitted_unix_s}"
    with (
        opened_part(bench, frame, evidence, share=share, submission=submission) as part,
        part.memory.leases.running_the_search(),
    ):
        forget_other_refusals(part.memory.ledger, gate_sha256)
        let_back_in(bench.assessor.goal, part.memory.ledger, part.memory.sampling)
        _prepare(bench, frame, part)
        tell_ended = _shared(bench, frame)
        with _assistants(bench):
            ended = part.study.run()
        tell_ended(ended)
        _wait_for_others(part)
        untouched.check()
        part.study.settle()
        told = part.chronicle.close(ended, seconds=part.study.seconds)
        if told.winner is None:
            reason = f"no recipe was found that holds the goal: {ended}"
            _refuse(bench, f"{reason}; {told.nearest_miss}".rstrip("; "))
            return
        recipe, said = told.trial(told.winner).recipe, f"the winner, trial {told.winner}"
        target = bench.directory / CANDIDATE_DIRECTORY
        built = _arrived(bench, part, recipe, target)
        if built is None:
            with part.candidates.built(recipe, said, lambda: math.inf) as candidate:
                shutil.rmtree(target, ignore_errors=True)
                shutil.move(candidate.model.parent, target)
                built = candidate.built
        # The gate's findings come in later; this one stays where it cannot judge.
        report_search(
            bench.directory, bench.spec, variant=target / MODEL_FILE, records=built.records
        )
        write_built(bench.directory, built)


def _shared(bench: Bench, frame: Explanation) -> Callable[[str], None]:
    """Have other machines know of the search; returns what tells them why it has ended."""
    store = bench.store
    if store is None:
        return lambda because: None
    told_at = -math.inf

    def went_on() -> None:
        """A job that is silent for long is taken for dead."""
        nonlocal told_at
        if time.monotonic() > told_at + _TOLD_EVERY_S:
            told_at = time.monotonic()
            report(bench.directory, "sharing", 0.0, "model and data go to search.artefacts")

    went_on()
    publish(store, bench.submitted, frame, bench.host, went_on)
    return lambda because: end_study(store, frame.study, because)


def _wait_for_others(part: Part) -> None:
    """Let processes that were told of the end put down what they hold, or be gone."""
    leases, until = part.memory.leases, time.monotonic() + _LONGEST_FAREWELL_S
    leases.free_the_dead()
    while leases.others_hold() and time.monotonic() < until:
        time.sleep(_LOOK_EVERY_S)
        leases.free_the_dead()


def _arrived(bench: Bench, part: Part, recipe: Recipe, target: Path) -> Built | None:
    """How the winner's candidate came about, where it arrives whole from whoever built it."""
    spec = bench.spec
    if part.delivery is None or spec.cache is None:
        return None
    report(bench.directory, "fetching", 1.0, "the winner, from search.artefacts")
    cache = Artefacts(spec.cache, spec.cache_limit_bytes)
    return part.delivery.fetch(recipe, target, spec, cache)


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
    with assistants(command, bench.directory / LOG_FILE, bench.search.workers - 1):
        yield
