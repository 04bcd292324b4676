"""What a process of a search works with, opened in order and closed in reverse."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from optimizers.contract.errors import InvalidDocument
from optimizers.contract.evidence import Evidence
from optimizers.contract.host import Host, this_host
from optimizers.contract.job import JobSpec
from optimizers.contract.search import Search
from optimizers.contract.study import Explanation, Trial, TrialState
from optimizers.ending import report
from optimizers.process import limit_memory
from optimizers.search.assessment import Assessor, Terms
from optimizers.search.candidates import Candidates
from optimizers.search.chronicle import Chronicle
from optimizers.search.database import open_database
from optimizers.search.ladder import Ladder
from optimizers.search.leases import Leases, this_process
from optimizers.search.ledger import Ledger
from optimizers.search.measuring import Measuring
from optimizers.search.naming import database_url
from optimizers.search.pieces import Memory
from optimizers.search.sampling import Sampling
from optimizers.search.space import space_of
from optimizers.search.study import Limits, Study
from optimizers.search.turns import Turns
from optimizers.search.working_time import WorkingTime

SEARCH_DIRECTORY: Final = "search"
"""Below a job's directory: what a search needs while it goes on."""

_RECIPES: Final = "recipes"
"""Below that: a directory for each recipe that is being built."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What is there before anything is known of the model.

    Attributes:
        spec: The job's, with data as steps may open it, and without the gate's.
        search: What its profile says.
        directory: The job's.
        home: Below it, for what the search needs.
        host: This machine.
        assessor: Measures.
        turns: Who measures when.
    """

    spec: JobSpec
    search: Search
    directory: Path
    home: Path
    host: Host
    assessor: Assessor
    turns: Turns


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One process's part in a search."""

    study: Study
    chronicle: Chronicle
    candidates: Candidates
    memory: Memory


@contextmanager
def opened_bench(directory: Path, spec: JobSpec, data: Mapping[str, Path]) -> Iterator[Bench]:
    """Open the original and the search's data.

    Args:
        directory: The job's.
        spec: What it says.
        data: Purpose → what a step may open; the gate's is left out here, for all that follows.

    Raises:
        InvalidDocument: The profile has no search.
        HoneError: The original or the data cannot be opened.
    """
    search = spec.profile.search
    if search is None:
        raise InvalidDocument(f"profile {spec.profile.name} has no search")
    given = {purpose: path for purpose, path in data.items() if purpose != "gate"}
    home = directory / SEARCH_DIRECTORY
    (home / _RECIPES).mkdir(parents=True, exist_ok=True)
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
        yield Bench(
            spec=spec,
            search=search,
            directory=directory,
            home=home,
            host=host,
            assessor=assessor,
            turns=Turns(home / "measuring", search.workers),
        )


@contextmanager
def opened_part(
    bench: Bench, frame: Explanation, evidence: Evidence, *, share: float, submission: str
) -> Iterator[Part]:
    """Start the builder and open the study.

    Args:
        bench: See `opened_bench`.
        frame: The explanation as far as it stays the same.
        evidence: What the space is derived from; the same for all processes of a search.
        share: Of the job's progress, in (0, 1], that searching is.
        submission: Names the search, so that it goes on with its own budget; "": that of the
            study's newest.

    Raises:
        HoneError: The study cannot be opened, or nothing can be searched.
    """
    spec, search, goal = bench.spec, bench.search, bench.assessor.goal
    url = database_url(spec, search, bench.directory)
    limits = Limits(trials=search.trials, seconds=60 * search.minutes)

    def status() -> tuple[float, str]:
        done = sum(one.trial.state is not TrialState.RUNNING for one in memory.ledger.all())
        spent = max(done / limits.trials, study.seconds / limits.seconds)
        text = f"{done} of {limits.trials} trials, {study.seconds_left / 60:.0f} min left"
        return share * min(1.0, spent), text

    def changed(trial: Trial) -> None:
        chronicle.note(trial, seconds=study.seconds, seconds_left=study.seconds_left)
        fraction, text = status()
        report(bench.directory, "search", fraction, f"{text}; trial {trial.number} {trial.state}")

    with ExitStack() as stack:
        clock = stack.enter_context(closing(WorkingTime()))
        candidates = stack.enter_context(
            Candidates(
                *(spec, bench.directory, bench.home / _RECIPES, bench.turns),
                status=status,
                clock=clock,
            )
        )
        limit_memory(spec.memory_limit_bytes)  # not that of the builder, which loads the tools
        engine = open_database(url)
        ledger = stack.enter_context(closing(Ledger(engine, frame.study, spec.original_sha256)))
        sampling = stack.enter_context(
            closing(
                Sampling(
                    space_of(evidence, goal, search),
                    study=frame.study,
                    sampler=search.sampler,
                    objectives=len(goal.optimize),
                    seed=search.seed,
                    storage=url,
                )
            )
        )
        memory = Memory(
            sampling=sampling,
            ledger=ledger,
            leases=Leases(engine, frame.study, owner=this_process()),
            budget=ledger.budget(submission, another=spec.resume and bool(submission)),
        )
        memory.leases.free_the_dead()
        chronicle = Chronicle(bench.directory, frame, goal, ledger)
        study = Study(
            *(goal, limits, memory, Ladder()),
            Measuring(candidates, bench.assessor, bench.turns, lambda: study.seconds_left),
            worker=f"{socket.gethostname()}:{os.getpid()}",
            clock=clock,
            changed=changed,
        )
        yield Part(study=study, chronicle=chronicle, candidates=candidates, memory=memory)
