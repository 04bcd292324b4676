"""The process that builds: one recipe of a job, or one of many that a search tries."""

from __future__ import annotations

import json
import os
import sys
import traceback
from dataclasses import replace
from pathlib import Path

from optimizers.checking import checked_data
from optimizers.contract.host import this_host
from optimizers.contract.job import (
    JobSpec,
    JobState,
    read_built,
    read_spec,
    write_built,
)
from optimizers.ending import end, errors_end, full_disk_exits, report
from optimizers.pipeline import build
from optimizers.process import die_with_parent, limit_memory, lower_priority
from optimizers.techniques import load_all
from optimizers.untouched import Untouched


def build_job(directory: Path, spec: JobSpec, share: float) -> None:
    """Check what a job works with, run its recipe, and leave the candidate.

    Args:
        directory: The job's.
        spec: What it says.
        share: Of the job's progress, in (0, 1], that building is.

    Raises:
        HoneError: Model or data are not what was submitted, or a step failed.
    """
    limit_memory(spec.memory_limit_bytes)
    if read_built(directory) is not None:
        return
    report(directory, "checking", 0.0, "")
    untouched = Untouched(spec)
    checked = checked_data(directory, spec)
    untouched.check()
    built = build(
        directory,
        replace(spec, data=checked),
        this_host(spec.cpus),
        lambda stage, done, text: report(directory, stage, share * done, text),
        untouched,
    )
    if not any(record.modified for record in built.records):
        notes = "; ".join(note for record in built.records for note in record.notes)
        end(directory, JobState.REFUSED, f"the recipe changes nothing: {notes}")
        return
    write_built(directory, built)


def build_trial(directory: Path, job: Path, said: str, fraction: float, parent: int) -> None:
    """Be the process that builds one recipe of a search: lowered, and within the memory limit.

    It leaves `candidate/` and `built.json` in a directory of its own, or `result.json` with the
    reason why not, unless that is the disk. Model and data were checked when the search began.

    Args:
        directory: Of this recipe, with a `spec.json`.
        job: Directory of the search's job, which is told of progress.
        said: What is built, for people.
        fraction: Of the job that is done.
        parent: Id of the process that must live.
    """
    die_with_parent(parent)
    lower_priority(leader=parent)
    spec = read_spec(directory)
    with errors_end(directory, spec, "build"), full_disk_exits():
        limit_memory(spec.memory_limit_bytes)
        built = build(
            directory,
            spec,
            this_host(spec.cpus),
            lambda stage, _, text: report(job, "search", fraction, f"{said}, {stage} {text}"),
            Untouched(spec),
        )
        write_built(directory, built)


def serve_trials() -> None:
    """Be the process that has the tools loaded and starts a child for each recipe of a search.

    Loading them takes seconds, a child that has them is there at once. Each line of the standard
    input is a JSON list of what `build_trial` takes; answered are the child's process id and, when
    it has ended, its exit code, each on a line.
    """
    die_with_parent()
    load_all()
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # what steps print goes to the log
    for line in sys.stdin:
        directory, job, said, fraction = json.loads(line)
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                build_trial(Path(directory), Path(job), said, fraction, parent)
                code = 0
            except SystemExit as left:
                code = left.code if isinstance(left.code, int) else 1
            except BaseException:  # a fork must not go on with what its parent does
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(child, file=answers, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


if __name__ == "__main__":
    serve_trials()
