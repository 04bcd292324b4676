"""`python -m optimizers worker JOB_DIR`: builds and judges one job, or searches and judges one.

A supervisor runs two children, one after the other: the first builds at the lowest priority and
within the memory limit, or looks for a recipe; the second measures at normal priority, which counts
among its own session's processes where the kernel groups them so (`lower_session`). They share
nothing but the job's directory, so either can be killed at any moment and the job can be taken up
again.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Final, Literal

from optimizers.contract.errors import NotSupported
from optimizers.contract.job import (
    LOG_FILE,
    JobResult,
    JobSpec,
    JobState,
    last_progress,
    read_result,
    read_spec,
)
from optimizers.contract.processors import processors_for_workers
from optimizers.contract.study import MOST_ATTEMPTS, TrialState, read_explanation
from optimizers.ending import end, errors_end, report
from optimizers.process import (
    PARENT_VARIABLE,
    die_with_parent,
    lower_priority,
    lower_session,
)
from optimizers.supervision import TookTooLong, run_child

Stage = Literal["build", "search", "assist", "measure"]
"""What a child does; `assist` is a further process of a search."""

STAGES: Final[tuple[Stage, ...]] = ("build", "search", "assist", "measure")

_DEATHS: Final = (
    *(signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE),
)
"""Signals that nobody sends who wants a search to stop: he ends the job's supervisor."""
_BUILDING: Final = 0.4
_SEARCHING: Final = 0.9


def supervise(directory: Path) -> JobResult:
    """Run both children of a job and make sure that a result is written."""
    if read_spec(directory).profile.search is None:
        result = _run_child(directory, "build")
    else:
        result = _run_search(directory)
    result = result or _run_child(directory, "measure")
    if result is not None:
        return result
    return end(directory, JobState.FAILED, "the worker ended without a verdict")


def build_only(directory: Path) -> None:
    """Run the first child alone: leaves the candidate, unjudged.

    Raises:
        NotSupported: The build failed, or its recipe changes nothing; the text says why.
    """
    result = _run_child(directory, "build")
    if result is not None:
        raise NotSupported(result.reason)


def _run_search(directory: Path) -> JobResult | None:
    """Run the child that searches to its end; None if the job goes on after it.

    What it measures may crash the runtime, or have the kernel end it for want of memory. That is a
    trial's fault and not the search's: it goes on, and gives a trial up that it dies at again and
    again. It has failed where it dies and no trial comes to an end.
    """
    deaths, ended = 0, 0
    while True:
        code = _ended_child(directory, "search")
        told = read_explanation(directory)
        trials = () if told is None else told.trials
        now = sum(trial.state is not TrialState.RUNNING for trial in trials)
        deaths, ended = (1 if now > ended else deaths + 1), now
        if -code not in _DEATHS or deaths > MOST_ATTEMPTS or read_result(directory) is not None:
            return _result(directory, "search", code)
        name = signal.Signals(-code).name
        report(directory, "starting", 0.0, f"search again: its process was ended by {name}")


def _run_child(directory: Path, stage: Stage) -> JobResult | None:
    """Run one child to its end; None if the job goes on after it."""
    return _result(directory, stage, _ended_child(directory, stage))


def _result(directory: Path, stage: Stage, code: int) -> JobResult | None:
    """How a job ended with one of its children, which returned `code`; None if it goes on."""
    result = read_result(directory)
    if result is None and code != 0:
        return end(directory, JobState.FAILED, _why(directory, stage, code))
    return result


def _ended_child(directory: Path, stage: Stage) -> int:
    """Run one child to its end; its return code. A job that it took too long for has a result."""
    spec = read_spec(directory)
    # Importing the tools takes seconds in which the job must not look dead.
    report(directory, "starting", _share(spec) if stage == "measure" else 0.0, stage)
    environment = {
        **os.environ,
        **processors_for_workers(),
        PARENT_VARIABLE: str(os.getpid()),
    }
    command = [sys.executable, "-m", "optimizers", "worker", str(directory), "--stage", stage]
    limit_s = spec.build_timeout_s if stage == "build" else 0.0
    try:
        return run_child(command, directory, environment=environment, limit_s=limit_s)
    except TookTooLong:
        progress = last_progress(directory)
        at = progress.stage if progress is not None else stage
        reason = f"building took longer than its limit of {limit_s:g} s; it was ended in {at}"
        if read_result(directory) is None:
            end(directory, JobState.FAILED, reason)
        return -signal.SIGKILL


def run_stage(directory: Path, stage: Stage) -> None:
    """Be one of the children: do the work and write a result if it ends the job."""
    die_with_parent()
    spec = read_spec(directory)
    if stage == "assist":
        from optimizers.searching import assist

        assist(directory, spec)
        return
    # Heavy, and only this child needs it; before any limit of memory, as OpenBLAS starts for ever
    # under one that is too low.
    with errors_end(directory, spec, stage):
        if stage == "build":
            lower_priority(leader=os.getppid())
            from optimizers.building import build_job

            build_job(directory, spec, _BUILDING)
        elif stage == "search":
            lower_session(leader=os.getppid())
            from optimizers.searching import search_job

            search_job(directory, spec, _SEARCHING)
        else:
            from optimizers.judging import judge_job

            judge_job(directory, spec, _share(spec))


def _share(spec: JobSpec) -> float:
    """How much of a job's progress comes before it is judged."""
    return _BUILDING if spec.profile.search is None else _SEARCHING


def _why(directory: Path, stage: Stage, code: int) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"the process of stage {stage} was ended by {name}{hint}"
    lines = (directory / LOG_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
    return f"stage {stage} ended with status {code}: {last[:300]}"
