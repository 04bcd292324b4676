"""What a process of a search works with, opened in order and closed in reverse."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from optimizers.contract.addresses import resolved_address
from optimizers.contract.errors import InvalidDocument
from optimizers.contract.evidence import Evidence
from optimizers.contract.host import Host, this_host
from optimizers.contract.job import JobSpec
from optimizers.contract.search import Search
from optimizers.contract.study import Explanation, Trial, TrialState
from optimizers.ending import report
from optimizers.pausing import working_time
from optimizers.process import limit_memory
from optimizers.search.assessment import Assessor, Terms
from optimizers.search.candidates import Candidate, Candidates
from optimizers.search.chronicle import Chronicle
from optimizers.search.database import open_database
from optimizers.search.delivering import Delivery
from optimizers.search.handover import Handover
from optimizers.search.ladder import Ladder
from optimizers.search.leases import LASTS_S, LASTS_WITH_PAUSES_S, Leases, this_process
from optimizers.search.leaving import Leaving
from optimizers.search.ledger import Ledger
from optimizers.search.measuring import Measuring
from optimizers.search.naming import database_url
from optimizers.search.pieces import Memory
from optimizers.search.sampling import Sampling
from optimizers.search.space import space_of
from optimizers.search.storage import failures_told
from optimizers.search.store import Store
from optimizers.search.study import Limits, Study
from optimizers.search.turns import Turns

SEARCH_DIRECTORY: Final = "search"
"""Below a job's directory: what a search needs while it goes on."""

_RECIPES: Final = "recipes"
"""Below that: a directory for each recipe that is being built."""

_TOLD_EVERY_S: Final = 10.0


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
class Bench:
    """What is there before anything is known of the model.

    Attributes:
        submitted: The job's specification, without the gate's data.
        spec: The same, with data as steps may open it.
        search: What its profile says.
        directory: The job's.
        home: Below it, for what the search needs.
        host: This machine.
        assessor: Measures.
        turns: Who measures when.
        store: What several machines share; None: this one searches alone.
        visit: Of a process on another machine than the job's, else None.
    """

    submitted: JobSpec
    spec: JobSpec
    search: Search
    directory: Path
    home: Path
    host: Host
    assessor: Assessor
    turns: Turns
    store: Store | None
    visit: Visit | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One process's part in a search."""

    study: Study
    chronicle: Chronicle
    candidates: Candidates
    memory: Memory
    delivery: Delivery | None


@contextmanager
def opened_bench(
    directory: Path, spec: JobSpec, data: Mapping[str, Path], visit: Visit | None = None
) -> Iterator[Bench]:
    """Open the original and the search's data.

    Args:
        directory: The job's.
        spec: What it says.
        data: Purpose → what a step may open; the gate's is left out here, for all that follows.
        visit: Of a process on another machine than the job's.

    Raises:
        InvalidDocument: The profile has no search.
        NotSupported: The store that the search names cannot be used here.
        HoneError: The original or the data cannot be opened.
    """
    search = spec.profile.search
    if search is None:
        raise InvalidDocument(f"profile {spec.profile.name} has no search")
    given = {purpose: path for purpose, path in data.items() if purpose != "gate"}
    home = directory / SEARCH_DIRECTORY
    (home / _RECIPES).mkdir(parents=True, exist_ok=True)
    submitted = replace(
        spec,
        data={purpose: spec.data[purpose] for purpose in given},
        data_sha256={purpose: spec.data_sha256[purpose] for purpose in given},
    )
    spec = replace(spec, data=given, cache=spec.cache or home / "artefacts")
    store = _store(search)
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
            submitted=submitted,
            spec=spec,
            search=search,
            directory=directory,
            home=home,
            host=host,
            assessor=assessor,
            turns=Turns(home / "measuring", search.workers) if visit is None else visit.turns,
            store=store,
            visit=visit,
        )


def _store(search: Search) -> Store | None:
    if not search.artefacts:
        return None
    return Store(resolved_address(search.artefacts, os.environ, "search.artefacts"))


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
    url = database_url(spec, search, bench.directory, os.environ)
    visit, told_at = bench.visit, 0.0
    limits = Limits(trials=search.trials, seconds=60 * search.minutes)

    def status() -> tuple[float, str]:
        done = sum(one.trial.state is not TrialState.RUNNING for one in memory.ledger.all())
        spent = max((done - before) / limits.trials, study.seconds / limits.seconds)
        text = f"{done} of {before + limits.trials} trials, {study.seconds_left / 60:.0f} min left"
        return share * min(1.0, spent), text

    def changed(trial: Trial) -> None:
        chronicle.note(trial, seconds=study.seconds, seconds_left=study.seconds_left)
        if delivery is not None and trial.state is TrialState.COMPLETE:
            delivery.tidy()
        fraction, text = status()
        report(bench.directory, "search", fraction, f"{text}; trial {trial.number} {trial.state}")

    def pause(seconds: float) -> None:
        """Wait for others; now and then, watchers and the server see that the search goes on."""
        nonlocal told_at
        time.sleep(seconds)
        if time.monotonic() < told_at + _TOLD_EVERY_S:
            return
        told_at = time.monotonic()
        chronicle.refresh(seconds=study.seconds, seconds_left=study.seconds_left)
        fraction, text = status()
        report(bench.directory, "search", fraction, f"{text}; others work")

    with failures_told(url), ExitStack() as stack:
        candidates = stack.enter_context(
            Candidates(
                *(spec, bench.directory, bench.home / _RECIPES, bench.turns),
                status=status,
                clock=working_time,
                is_guest=visit is not None,
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
                    trials=search.trials,
                    storage=url,
                )
            )
        )
        memory = Memory(
            sampling=sampling,
            ledger=ledger,
            leases=Leases(
                engine,
                frame.study,
                owner=this_process(),
                lasts_s=LASTS_WITH_PAUSES_S if visit is None else LASTS_S,
            ),
            budget=ledger.budget(submission, another=spec.resume and bool(submission)),
        )
        memory.leases.free_the_dead()
        before = ledger.asked_before(memory.budget)
        frame = replace(frame, trials_total=before + limits.trials)
        chronicle = Chronicle(bench.directory, frame, goal, ledger)
        delivery = (
            None
            if bench.store is None
            else Delivery(Handover(bench.store, frame.study), goal, ledger)
        )
        leave = _stays if visit is None else Leaving(visit.leave, memory.leases)
        measuring = Measuring(
            *(candidates, bench.assessor, bench.turns),
            lambda: 0.0 if leave() else study.seconds_left,
            keep=_let_go if delivery is None else delivery.give,
        )
        study = Study(
            *(goal, limits, memory, Ladder(hyperband=search.hyperband), measuring),
            worker=f"{socket.gethostname()}:{os.getpid()}",
            differs="" if visit is None else visit.served_on.difference(bench.host),
            clock=working_time,
            changed=changed,
            pause=pause,
            leave=leave,
        )
        yield Part(
            study=study,
            chronicle=chronicle,
            candidates=candidates,
            memory=memory,
            delivery=delivery,
        )


def _stays() -> str:
    """A process of the search's own machine does not leave before it ends."""
    return ""


def _let_go(candidate: Candidate) -> None:
    """A candidate that nobody else is to have goes with its directory."""
