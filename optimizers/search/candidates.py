"""Makes a recipe at one level into a model, in a lowered child process.

A child is a job of one recipe without the gate's data: `spec.json` goes into a directory of its
own, `candidate/` and `built.json` or a `result.json` with the reason come out. The artefact cache
is the search's, so that recipes that begin alike share their beginning.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from optimizers.contract.distillation import Distill, Finetune
from optimizers.contract.errors import HoneError
from optimizers.contract.job import (
    CANDIDATE_DIRECTORY,
    Built,
    JobSpec,
    last_progress,
    read_built,
    read_result,
    write_spec,
)
from optimizers.contract.manifest import MODEL_FILE
from optimizers.contract.profile import Profile
from optimizers.contract.pruning import Sparsify
from optimizers.contract.quantization import Binarize, QuantizeAware, Ternarize, WeightsNbits
from optimizers.contract.recipe import Recipe
from optimizers.contract.stage import Stage
from optimizers.contract.steps import Step
from optimizers.process import PARENT_VARIABLE
from optimizers.search.evaluator import Level
from optimizers.search.turns import LOOK_EVERY_S, Turns
from optimizers.search.working_time import TimeIsUp

_BUILDER: Final = "optimizers.building"


class NotBuilt(HoneError):
    """A recipe made nothing that can be used; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What a recipe made.

    Attributes:
        directory: Of its files.
        built: How it came about.
    """

    directory: Path
    built: Built

    @property
    def model(self) -> Path:
        """The model file."""
        return self.directory / MODEL_FILE


def at_level(recipe: Recipe, level: Level) -> Recipe:
    """What is built of a recipe at a level.

    At the level of structure nothing trains: steps that do nothing else are left out, and others
    do what they do untrained. At later levels steps train for their share of epochs, rounded, at
    least one; how the model is opened is not chosen again, since answers do not depend on it.
    """
    if level.is_structure:
        untrained = (_untrained(step) for step in recipe.steps)
        return Recipe(steps=tuple(step for step in untrained if step is not None))
    return Recipe(
        steps=tuple(
            _trained(step, level.training_share)
            for step in recipe.steps
            if step.stage is not Stage.SESSION
        )
    )


def _untrained(step: Step) -> Step | None:
    match step:
        case Finetune() | Sparsify():
            return None
        case Distill():
            return _trained(step, 0.0) if step.student else None
        case QuantizeAware():
            return step.int8
        case WeightsNbits() | Binarize() | Ternarize():
            return replace(step, training=None)
        case _:
            return step


def _trained(step: Step, share: float) -> Step:
    match step:
        case Finetune() | Sparsify() | Distill() | QuantizeAware():
            pass
        case WeightsNbits() | Binarize() | Ternarize() if step.training is not None:
            pass
        case _:
            return step
    epochs = max(1, round(share * step.training.epochs))
    return replace(step, training=replace(step.training, epochs=epochs))


class Candidates:
    """Builds for one process of a search, one recipe at a time. Close it."""

    def __init__(
        self,
        spec: JobSpec,
        job: Path,
        home: Path,
        turns: Turns,
        *,
        status: Callable[[], tuple[float, str]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the process that has the tools loaded.

        Args:
            spec: The search's job: what to build from, where to cache, how long a build may take.
            job: Directory of that job, which is told of progress.
            home: Where directories of recipes are made.
            turns: Who measures.
            status: Gives the share of the job that is done, and how far it is, for people.
            clock: Seconds that count.
        """
        data = {purpose: path for purpose, path in spec.data.items() if purpose != "gate"}
        digests = {purpose: spec.data_sha256[purpose] for purpose in data}
        self._spec = replace(spec, data=data, data_sha256=digests)
        self._job = job
        self._home = home
        self._turns = turns
        self._status = status
        self._clock = clock
        self._numbers = itertools.count()
        self._builder: subprocess.Popen[str] | None = None
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the builder and whatever it builds."""
        if self._builder is not None:
            self._builder.kill()
            self._builder.communicate()
            self._builder = None

    @contextlib.contextmanager
    def built(
        self, recipe: Recipe, said: str, seconds_left: Callable[[], float]
    ) -> Iterator[Candidate]:
        """Build a recipe; what it made is there until the block ends.

        Args:
            recipe: What to do; without steps, the original comes out.
            said: What is built, for people who watch.
            seconds_left: Until the build is cut.

        Raises:
            NotBuilt: A step failed, or it took too much memory or too long.
            TimeIsUp: The search's time has ended.
        """
        directory = self._home / f"{os.getpid()}-{next(self._numbers)}"
        directory.mkdir(parents=True)
        profile = Profile(name=self._spec.profile.name, recipe=recipe, goal=self._spec.profile.goal)
        try:
            write_spec(directory, replace(self._spec, profile=profile))
            code = self._run(directory, said, seconds_left)
            result, built = read_result(directory), read_built(directory)
            if built is None:
                raise NotBuilt(result.reason if result is not None else _how_it_ended(code))
            yield Candidate(directory=directory / CANDIDATE_DIRECTORY, built=built)
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _start(self) -> None:
        self._builder = subprocess.Popen(
            [sys.executable, "-m", _BUILDER],
            env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _run(self, directory: Path, said: str, seconds_left: Callable[[], float]) -> int:
        """Have one recipe built; returns the child's exit code, negative for a signal."""
        if self._builder is None or self._builder.poll() is not None:
            self.close()
            self._start()
        builder = self._builder
        assert builder is not None and builder.stdin is not None and builder.stdout is not None
        fraction, status = self._status()
        order = [str(directory), str(self._job), f"{status}; {said}", fraction]
        builder.stdin.write(json.dumps(order) + "\n")
        builder.stdin.flush()
        began = self._clock()
        child = _number(builder.stdout.readline())
        stood_s, is_stopped = 0.0, False
        while not select.select([builder.stdout], [], [], LOOK_EVERY_S)[0]:
            stop = self._turns.others_measure()
            if stop != is_stopped:
                os.kill(child, signal.SIGSTOP if stop else signal.SIGCONT)
                is_stopped = stop
            stood_s += LOOK_EVERY_S if is_stopped else 0.0
            limit_s = self._spec.build_timeout_s
            if not seconds_left():
                self._end(child)
                raise TimeIsUp
            if limit_s and self._clock() - began - stood_s > limit_s:
                self._end(child)
                progress = last_progress(self._job)
                at = f"; it was ended in {progress.text}" if progress is not None else ""
                raise NotBuilt(f"building took longer than its limit of {limit_s:g} s{at}")
        return _number(builder.stdout.readline())

    def _end(self, child: int) -> None:
        """Kill a child of the builder, which has not yet said that it ended."""
        os.kill(child, signal.SIGKILL)
        builder.stdout.readline()


def _number(line: str) -> int:
    """What the builder said.

    Raises:
        NotBuilt: It has ended instead.
    """
    if not line.strip():
        raise NotBuilt("the process that builds has ended; see the job's log")
    return int(line)


def _how_it_ended(code: int) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"the process that built it was ended by {name}{hint}"
    return f"the process that built it ended with status {code}; see the job's log"
