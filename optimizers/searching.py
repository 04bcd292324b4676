"""The process that searches: looks at the model, tries recipes, leaves the best one's candidate.

It never sees the gate's data: what judges the winner is checked to be nobody else's, and then
left out of all that the search is given.
"""

from __future__ import annotations

import math
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from optimizers.artefacts import Artefacts
from optimizers.building import checked_data, data_of
from optimizers.calibration import open_data
from optimizers.contract.addresses import resolved_address
from optimizers.contract.errors import InvalidData, InvalidDocument
from optimizers.contract.host import Host, this_host
from optimizers.contract.job import (
    CANDIDATE_DIRECTORY,
    LOG_FILE,
    Built,
    JobSpec,
    JobState,
    read_built,
    write_built,
)
from optimizers.contract.recipe import Recipe
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.contract.search import Search
from optimizers.contract.study import (
    Explanation,
    Trial,
    TrialState,
    read_explanation,
    write_explanation,
)
from optimizers.ending import end, report
from optimizers.evaluation.disjoint import check_disjoint
from optimizers.evaluation.profiler import profile
from optimizers.planner import propose
from optimizers.process import PARENT_VARIABLE, limit_memory
from optimizers.reporting import report_search
from optimizers.search.assessment import Assessor, Terms
from optimizers.search.candidates import Candidates
from optimizers.search.chronicle import Chronicle
from optimizers.search.database import open_database
from optimizers.search.delivering import Delivery
from optimizers.search.handover import Handover
from optimizers.search.ladder import Ladder
from optimizers.search.leases import Leases, this_process
from optimizers.search.ledger import Ledger
from optimizers.search.measuring import Measuring
from optimizers.search.naming import database_url, study_name
from optimizers.search.objectives import objectives, violation
from optimizers.search.pieces import Memory
from optimizers.search.sampling import Known, Sampling
from optimizers.search.satisfiable import unsatisfiable
from optimizers.search.sharing import end_study, publish
from optimizers.search.space import space_of
from optimizers.search.store import Store
from optimizers.search.study import Limits, Study
from optimizers.search.turns import Turns
from optimizers.search.working_time import WorkingTime
from optimizers.untouched import Untouched

SEARCH_DIRECTORY: Final = "search"
"""Below a job's directory: what a search needs while it goes on."""

_GOAL_CANNOT_BE_MET: Final = "no recipe can meet the goal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """What a process on another machine than the job's knows besides.

    Attributes:
        served_on: The job's machine.
        turns: Who measures when on this one.
        leave: Why it is to take part no longer; "": it stays.
    """

    served_on: Host
    turns: Turns
    leave: Callable[[], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bench:
    """What one process of a search works with.

    Attributes:
        submitted: The job's specification, without the gate's data.
        spec: The same, with data as steps may open it.
        search: What its profile says.
        directory: The job's.
        home: Below it, for what the search needs.
        host: This machine.
        assessor: Measures.
        turns: Who measures when.
    """

    submitted: JobSpec
    spec: JobSpec
    search: Search
    directory: Path
    home: Path
    host: Host
    assessor: Assessor
    turns: Turns


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
    shutil.rmtree(_recipes(directory), ignore_errors=True)
    with _bench(directory, spec, data) as bench:
        frame = _frame(bench, counts)
        if frame.unsatisfiable:
            why = "; ".join(frame.unsatisfiable)
            write_explanation(directory, replace(frame, ended_because=_GOAL_CANNOT_BE_MET))
            report_search(directory, bench.spec)
            end(directory, JobState.REFUSED, f"{_GOAL_CANNOT_BE_MET}: {why}")
            return
        _search(bench, frame, share, untouched)


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


def assist(directory: Path, spec: JobSpec, visit: Visit | None = None) -> str:
    """Be a further process of a search that another one has begun; returns why it has ended.

    Args:
        directory: The job's, with an explanation that has the search's evidence.
        spec: What it says.
        visit: What a process on another machine knows besides; None: this is the job's machine.

    Raises:
        HoneError: It cannot take part.
    """
    turns = None if visit is None else visit.turns
    with _bench(directory, spec, data_of(directory, spec), turns) as bench:
        frame = read_explanation(directory)
        if frame is None:
            raise InvalidData(f"{directory.name} has no search to assist in")
        with _part(bench, frame, 1.0, submission="", visit=visit) as part:
            return part.study.run()


def _search(bench: _Bench, frame: Explanation, share: float, untouched: Untouched) -> None:
    directory = bench.directory
    with _part(bench, frame, share, submission=_submission(bench.spec)) as part:
        _prepare(bench, frame, part)
        tell_ended = _shared(bench, frame)
        with _assistants(bench):
            ended = part.study.run()
        tell_ended(ended)
        untouched.check()
        part.study.settle()
        told = part.chronicle.close(ended, seconds=part.study.seconds)
        if told.winner is None:
            reason = f"no recipe was found that holds the goal, and {ended}; {told.nearest_miss}"
            report_search(directory, bench.spec)
            end(directory, JobState.REFUSED, reason)
            return
        recipe = told.trial(told.winner).recipe
        said = f"the winner, trial {told.winner}"
        target = directory / CANDIDATE_DIRECTORY
        arrived = _fetched(bench, part, recipe, target)
        if arrived is not None:
            write_built(directory, arrived)
            return
        with part.candidates.built(recipe, said, lambda: math.inf) as candidate:
            shutil.rmtree(target, ignore_errors=True)
            shutil.move(candidate.directory, target)
            write_built(directory, candidate.built)


def _fetched(bench: _Bench, part: _Part, recipe: Recipe, target: Path) -> Built | None:
    """How the winner's candidate came about, where it arrives from another machine's work."""
    spec = bench.spec
    if part.delivery is None or spec.cache is None:
        return None
    report(bench.directory, "fetching", 1.0, "the winner, from search.artefacts")
    return part.delivery.fetch(recipe, target, Artefacts(spec.cache, spec.cache_limit_bytes))


def _shared(bench: _Bench, frame: Explanation) -> Callable[[str], None]:
    """Have other machines know of the search; returns what tells them why it has ended."""
    store = _store(bench.search)
    if store is None:
        return lambda because: None
    report(bench.directory, "sharing", 0.0, "model and data go to search.artefacts")
    publish(store, bench.submitted, frame, bench.host)
    return lambda because: end_study(store, frame.study, because)


def _store(search: Search) -> Store | None:
    if not search.artefacts:
        return None
    return Store(resolved_address(search.artefacts, os.environ, "search.artefacts"))


@contextmanager
def _bench(
    directory: Path, spec: JobSpec, data: dict[str, Path], turns: Turns | None = None
) -> Iterator[_Bench]:
    search = spec.profile.search
    if search is None:
        raise InvalidDocument(f"profile {spec.profile.name} has no search")
    given = {purpose: path for purpose, path in data.items() if purpose != "gate"}
    home = directory / SEARCH_DIRECTORY
    _recipes(directory).mkdir(parents=True, exist_ok=True)
    submitted = replace(
        spec,
        data={purpose: spec.data[purpose] for purpose in given},
        data_sha256={purpose: spec.data_sha256[purpose] for purpose in given},
    )
    spec = replace(spec, data=given, cache=spec.cache or home / "artefacts")
    host = this_host(spec.cpus)
    terms = Terms(
        original=spec.original_file,
        original_session=spec.original_session,
        goal=spec.profile.goal,
        task=spec.task,
        data=given["search"],
        host=host,
        price=spec.price,
        seed=spec.seed,
    )
    with Assessor(terms) as assessor:
        yield _Bench(
            submitted=submitted,
            spec=spec,
            search=search,
            directory=directory,
            home=home,
            host=host,
            assessor=assessor,
            turns=turns or Turns(home / "measuring", search.workers),
        )


def _frame(bench: _Bench, counts: dict[str, int]) -> Explanation:
    """What does not change while a search goes on; looked at once for each job."""
    spec, search, goal = bench.spec, bench.search, bench.assessor.goal
    study = study_name(spec, search, bench.host)
    former = read_explanation(bench.directory)
    if former is not None and former.study == study and former.evidence is not None:
        return replace(former, ended_because="", nearest_miss="")
    report(bench.directory, "profiling", 0.0, "")
    evidence = profile(
        spec.original_file,
        spec.original_session,
        host=bench.host,
        task=spec.task,
        data=spec.data,
        seed=spec.seed,
    )
    return Explanation(
        study=study,
        model=spec.model,
        version=spec.version,
        profile=spec.profile.without_secrets(),
        evidence=evidence,
        proposals=propose(evidence, goal, search) if search.planner else (),
        data=counts,
        unsatisfiable=unsatisfiable(goal, evidence, bench.assessor.original_figures(), search),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """One process's part in a search."""

    study: Study
    chronicle: Chronicle
    candidates: Candidates
    sampling: Sampling
    ledger: Ledger
    delivery: Delivery | None


def _stays() -> str:
    """A process of the search's own machine does not leave before it ends."""
    return ""


@contextmanager
def _part(
    bench: _Bench,
    frame: Explanation,
    share: float,
    *,
    submission: str,
    visit: Visit | None = None,
) -> Iterator[_Part]:
    spec, search, goal = bench.spec, bench.search, bench.assessor.goal
    if frame.evidence is None:
        raise InvalidData(f"{bench.directory.name}: the model has not been looked at yet")
    url = database_url(spec, search, bench.directory, os.environ)
    leave = _stays if visit is None else visit.leave
    limits = Limits(trials=search.trials, seconds=60 * search.minutes)
    with ExitStack() as stack:
        clock = stack.enter_context(closing(WorkingTime()))

        def status() -> tuple[float, str]:
            done = sum(one.trial.state is not TrialState.RUNNING for one in ledger.all())
            spent = max(done / limits.trials, study.seconds / limits.seconds)
            left = f"{done} of {limits.trials} trials, {study.seconds_left / 60:.0f} min left"
            return share * min(1.0, spent), left

        def changed(trial: Trial) -> None:
            chronicle.note(trial, seconds=study.seconds, seconds_left=study.seconds_left)
            if delivery is not None and trial.state is TrialState.COMPLETE:
                delivery.tidy()
            fraction, text = status()
            report(
                bench.directory, "search", fraction, f"{text}; trial {trial.number} {trial.state}"
            )

        candidates = stack.enter_context(
            Candidates(
                spec,
                bench.directory,
                _recipes(bench.directory),
                bench.turns,
                status=status,
                clock=clock,
            )
        )
        limit_memory(spec.memory_limit_bytes)  # not that of the builder, which loads the tools
        engine = open_database(url)
        stack.callback(engine.dispose)
        ledger = Ledger(engine, frame.study, spec.original_sha256)
        sampling = Sampling(
            space_of(frame.evidence, goal, search),
            study=frame.study,
            sampler=search.sampler,
            objectives=len(goal.optimize),
            seed=search.seed,
            storage=url,
        )
        stack.callback(sampling.close)
        memory = Memory(
            sampling=sampling,
            ledger=ledger,
            leases=Leases(engine, frame.study, owner=this_process()),
            budget=ledger.budget(submission, another=spec.resume and bool(submission)),
        )
        chronicle = Chronicle(bench.directory, frame, goal, ledger)
        store = _store(search)
        delivery = None if store is None else Delivery(Handover(store, frame.study), goal, ledger)
        measuring = Measuring(
            candidates,
            bench.assessor,
            bench.turns,
            lambda: 0.0 if leave() else study.seconds_left,
            keep=(lambda candidate: None) if delivery is None else delivery.give,
        )
        study = Study(
            goal,
            limits,
            memory,
            Ladder(),
            measuring,
            worker=f"{socket.gethostname()}:{os.getpid()}",
            differs="" if visit is None else visit.served_on.difference(bench.host),
            clock=clock,
            changed=changed,
            leave=leave,
        )
        memory.leases.free_the_dead()
        yield _Part(
            study=study,
            chronicle=chronicle,
            candidates=candidates,
            sampling=sampling,
            ledger=ledger,
            delivery=delivery,
        )


def _prepare(bench: _Bench, frame: Explanation, part: _Part) -> None:
    """Have the sampler know what is known: the planner's proposals, and earlier studies."""
    goal = bench.assessor.goal
    for proposal in frame.proposals:
        part.sampling.enqueue(proposal.recipe, f"planner: {proposal.reason}")
    part.sampling.warm(
        Known(
            recipe=trial.recipe,
            values=objectives(goal, trial.figures),
            violation=violation(goal, trial.figures),
        )
        for trial in part.ledger.of_other_studies()
        if trial.state is TrialState.COMPLETE
        and all(map(math.isfinite, objectives(goal, trial.figures)))
    )


@contextmanager
def _assistants(bench: _Bench) -> Iterator[None]:
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


def _recipes(directory: Path) -> Path:
    """Where directories of recipes are made, one for each that is being built."""
    return directory / SEARCH_DIRECTORY / "recipes"


def _submission(spec: JobSpec) -> str:
    """Names this search, however often it is started again."""
    return f"{spec.id}@{spec.submitted_unix_s}"
