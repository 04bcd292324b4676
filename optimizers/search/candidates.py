"""Makes a recipe into a model, in a lowered child process.

A child is a job of one recipe without the gate's data: `spec.json` goes into a directory of its
own, `candidate/` and `built.json` or a `result.json` with the reason come out. The artefact cache
is the search's, so that recipes that begin alike share their beginning.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from optimizers.contract.errors import HoneError, NotSupported
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
from optimizers.contract.recipe import Recipe
from optimizers.ending import DISK_REFUSED
from optimizers.search.builder import Builder, NotBuilt
from optimizers.search.evaluator import CannotTry
from optimizers.search.turns import LOOK_EVERY_S, Turns
from optimizers.search.working_time import TimeIsUp

_OF_THE_MACHINE: Final = (signal.SIGKILL, signal.SIGILL, signal.SIGBUS)
"""What ends a build for want of memory or of instructions, of which another machine has more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What a recipe made.

    Attributes:
        model: The model file.
        built: How it came about.
    """

    model: Path
    built: Built


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
        is_guest: bool = False,
    ) -> None:
        """Start the process that has the tools loaded.

        Args:
            spec: The search's job: what to build from, where to cache, how long a build may take.
            job: Directory of that job, which is told of progress.
            home: Where directories of recipes are made.
            turns: Who measures.
            status: Gives the share of the job that is done, and how far it is, for people.
            clock: Seconds that count.
            is_guest: Whether this machine only helps, and what it lacks another one may have.
        """
        data = {purpose: path for purpose, path in spec.data.items() if purpose != "gate"}
        digests = {purpose: spec.data_sha256[purpose] for purpose in data}
        self._spec = replace(spec, data=data, data_sha256=digests)
        self._job = job
        self._home = home
        self._turns = turns
        self._status = status
        self._clock = clock
        self._is_guest = is_guest
        self._numbers = itertools.count()
        self._builder = Builder()

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
        self._builder.close()

    @contextlib.contextmanager
    def built(
        self, recipe: Recipe, said: str, seconds_left: Callable[[], float]
    ) -> Iterator[Candidate]:
        """Build a recipe; what it made is there until the block ends.

        Args:
            recipe: What to do; without steps, the original is there as it is.
            said: What is built, for people who watch.
            seconds_left: Until the build is cut.

        Raises:
            NotBuilt: A step failed, or it took too much memory or too long.
            TimeIsUp: The search's time has ended.
            CannotTry: This machine can build nothing.
            NotSupported: This machine, a guest, lacks what this recipe takes.
        """
        if not recipe.steps:
            session = self._spec.original_session
            untouched = Built(recipe=recipe, session=session, records=(), built_with={})
            yield Candidate(model=self._spec.original_file, built=untouched)
            return
        directory = self._home / f"{os.getpid()}-{next(self._numbers)}"
        profile = Profile(name=self._spec.profile.name, recipe=recipe, goal=self._spec.profile.goal)
        try:
            self._order(directory, replace(self._spec, profile=profile))
            code = self._run(directory, said, seconds_left)
            result, built = read_result(directory), read_built(directory)
            if built is None and result is not None:
                raise NotBuilt(result.reason)
            if built is None:
                raise self._lacking(recipe, code)
            yield Candidate(model=directory / CANDIDATE_DIRECTORY / MODEL_FILE, built=built)
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _order(self, directory: Path, spec: JobSpec) -> None:
        try:
            directory.mkdir(parents=True)
            write_spec(directory, spec)
        except OSError as error:
            raise CannotTry(f"{self._home} cannot be written to: {error.strerror}") from error

    def _lacking(self, recipe: Recipe, code: int) -> HoneError:
        """What to tell of a child that ended and left no word."""
        if code == DISK_REFUSED:
            return CannotTry(f"the disk of {self._home} takes no more; make room")
        if self._is_guest and -code in _OF_THE_MACHINE:
            return NotSupported(
                f"{recipe} is left to other machines: {_how_it_ended(code)}; start this one again "
                "for what takes less"
            )
        return NotBuilt(_how_it_ended(code))

    def _run(self, directory: Path, said: str, seconds_left: Callable[[], float]) -> int:
        """Have one recipe built; returns the child's exit code, negative for a signal."""
        if self._builder.is_gone:
            self._builder.close()
            self._builder = Builder()
        fraction, status = self._status()
        self._builder.begin([str(directory), str(self._job), f"{status}; {said}", fraction])
        began, stood_s, stood = self._clock(), 0.0, False
        limit_s = self._spec.build_timeout_s
        while not self._builder.has_ended(LOOK_EVERY_S):
            stands = self._turns.others_measure()
            if stands or stood:  # again and again: the end of a pause lets everything go on
                self._builder.stand_still(still=stands)
            stood, stood_s = stands, stood_s + (LOOK_EVERY_S if stands else 0.0)
            if not seconds_left():
                self._builder.kill()
                raise TimeIsUp
            if limit_s and self._clock() - began - stood_s > limit_s:
                self._builder.kill()
                progress = last_progress(self._job)
                at = "" if progress is None else f"; it was ended in {progress.text}"
                raise NotBuilt(f"building took longer than its limit of {limit_s:g} s{at}")
        return self._builder.exit_code()


def _how_it_ended(code: int) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"the process that built it was ended by {name}{hint}"
    return f"the process that built it ended with status {code}; see the job's log"
