"""One recipe on one model: built, judged by the gates, read back."""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Final

from benchmarks.gains.gained import gained
from benchmarks.gains.recipes import Row
from benchmarks.gains.records import Circumstances, Done, Record
from benchmarks.gains.subject import Subject
from optimizers.contract.host import cpu_budget, this_host
from optimizers.contract.job import JobState
from optimizers.contract.manifest import Manifest, read_manifest
from optimizers.contract.profile import Task

_PROFILE: Final = """\
recipe: {recipe}
goal:
  optimize: [{optimize}]
  require: [{require}]
"""
_OF_EMBEDDINGS: Final = '"cosine >= -1", "sqnr >= -100 dB"'
_OF_CLASSES: Final = '"agreement >= 0", "sqnr >= -100 dB"'
_OF_LABELLED_CLASSES: Final = f'"accuracy <= 100 points worse", {_OF_CLASSES}'
_MEASURE_S: Final = 60
_PACKAGES: Final = ("hone-server", "onnxruntime", "torch", "numpy")
_FINDINGS: Final = (JobState.SUCCEEDED, JobState.REFUSED, JobState.FAILED)


class NotMeasured(Exception):
    """A build ended without saying anything of its row: it was stopped, or never was quiet."""


def profile_text(row: Row, task: Task, *, is_labelled: bool = True) -> str:
    """The row as an operator would write it."""
    of_classes = _OF_LABELLED_CLASSES if is_labelled else _OF_CLASSES
    require = _OF_EMBEDDINGS if task is Task.EMBEDDING else of_classes
    return _PROFILE.format(recipe=row.recipe, optimize=row.optimize, require=require)


def measure(subject: Subject, row: Row, cache: Path) -> Record:
    """Build and judge; nothing is required, so that every figure is measured.

    Args:
        subject: The model and its data.
        row: The recipe.
        cache: Where what steps made is kept: a run of the benchmark need not train twice.

    Raises:
        NotMeasured: There is no verdict.
    """
    with tempfile.TemporaryDirectory() as name:
        profile, output = Path(name) / "gains.yaml", Path(name) / "variant"
        text = profile_text(row, subject.task, is_labelled=subject.is_labelled)
        profile.write_text(text, encoding="utf-8")
        command = [
            *(sys.executable, "-m", "optimizers", "build", str(subject.model)),
            *("--profile-file", str(profile), "--output", str(output), "--task", subject.task),
            *("--measure-seconds", str(_MEASURE_S)),
            *("--cache", str(cache)),
        ]
        for part, path in subject.data.items():
            command += [f"--{part}", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        manifest = read_manifest(output / "manifest.json") if output.is_dir() else None
    return record_of(subject, row, manifest, ending(done.stdout, done.stderr))


def ending(said: str, complained: str) -> str:
    """The verdict on a row: the line of a build that says how it ended.

    Args:
        said: Its standard output.
        complained: Its standard error.

    Raises:
        NotMeasured: It was stopped, or came to no verdict; the text says which.
    """
    for line in reversed(said.splitlines()):
        state = line.partition(":")[0]
        if state in _FINDINGS:
            return line
        if state in list(JobState):
            raise NotMeasured(line)
    raise NotMeasured((complained.strip().splitlines() or ["it said nothing"])[-1])


def record_of(subject: Subject, row: Row, manifest: Manifest | None, verdict: str) -> Record:
    """What a build on this machine, today, found."""
    evaluation = None if manifest is None else manifest.evaluation
    steps = () if manifest is None else manifest.records
    return Record(
        title=row.title,
        recipe=row.recipe,
        optimize=row.optimize,
        task=subject.task,
        ending=verdict,
        circumstances=_circumstances(subject),
        figures={} if evaluation is None else gained(evaluation.figures),
        steps=tuple(Done(step=one.step, notes=one.notes) for one in steps),
    )


def _circumstances(subject: Subject) -> Circumstances:
    host = this_host(max(1, int(cpu_budget())))
    vnni = "with" if host.has_vnni else "without"
    return Circumstances(
        when=time.strftime("%Y-%m-%d", time.gmtime()),
        machine=f"{host.processor}, {host.cpus} processors, {vnni} VNNI, {platform.platform()}",
        has_vnni=host.has_vnni,
        versions={package: version(package) for package in _PACKAGES},
        about=subject.about,
    )
