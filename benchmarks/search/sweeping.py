"""Tries every recipe of a grid at every level by the evaluator of live searches."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Final

from benchmarks.search.accounted import Accounted
from benchmarks.search.sweep import (
    Piece,
    Sweep,
    append_piece,
    begin_sweep,
    beginnings,
    read_sweep,
)
from optimizers.contract.errors import InvalidData
from optimizers.contract.host import Host, this_host
from optimizers.contract.job import JobSpec
from optimizers.contract.recipe import Recipe
from optimizers.contract.runtime import SessionSpec
from optimizers.contract.stage import Stage
from optimizers.evaluation.profiler import profile
from optimizers.search.assessment import Assessment, Assessor, Terms
from optimizers.search.candidates import Candidates
from optimizers.search.evaluator import Level
from optimizers.search.measuring import Measuring
from optimizers.search.records import recipe_key
from optimizers.search.turns import Turns

PACKAGES: Final = ("hone-server", "onnxruntime", "torch", "optuna", "numpy")
_CACHE_BYTES: Final = 32 << 30
"""Nothing may be thrown out: what was made once is charged once."""


class _Timed(Assessor):
    """Measures, and counts the seconds of it."""

    spent_s = 0.0

    def structure(self, model: Path, session: SessionSpec) -> Assessment:
        """See `Assessor`."""
        return self._counted(super().structure(model, session))

    def answers(self, model: Path, session: SessionSpec) -> Assessment:
        """See `Assessor`."""
        return self._counted(super().answers(model, session))

    def _counted(self, assessment: Assessment) -> Assessment:
        self.spent_s += assessment.seconds
        return assessment


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweeper:
    """Where one sweep is carried out.

    Attributes:
        spec: What is swept.
        about: What the model is, for people.
        file: Where the sweep is written.
        home: For what the evaluator keeps: recipes' directories and the cache of artefacts.
        tell: Is told what was done, for people.
    """

    spec: JobSpec
    about: str
    file: Path
    home: Path
    tell: Callable[[str], None]

    def run(self) -> Sweep:
        """Try what was not tried yet; a complete sweep may be of another machine.

        Raises:
            InvalidData: The file is of another grid, or the sweep cannot be gone on with.
        """
        before = read_sweep(self.file)
        if before is not None:
            self._check_grid(before)
            if before.is_complete:
                return before
            self._check_ours(before)
            self._accounted.forget_unwritten(len(before.pieces))
        with self._evaluator() as (measuring, assessor):
            sweep = before or self._begun(assessor)
            made = {one for piece in sweep.pieces for one in piece.made}
            work = [one for one in sweep.work if (recipe_key(one[0]), one[1]) not in sweep.found]
            for index, (recipe, level) in enumerate(work):
                self._accounted.note(len(sweep.pieces) + index)
                piece = _tried(measuring, assessor, recipe, level, made)
                made.update(piece.made)
                append_piece(self.file, piece)
                ending = piece.broken or f"{piece.building_s:.1f} + {piece.measuring_s:.1f} s"
                self.tell(f"{index + 1}/{len(work)} {recipe} at level {level.index}: {ending}")
        found = read_sweep(self.file)
        assert found is not None
        return found

    @property
    def _cache(self) -> Path:
        return self.home / "artefacts"

    @property
    def _accounted(self) -> Accounted:
        return Accounted(file=self.home / "made.jsonl", cache=self._cache)

    def _check_grid(self, before: Sweep) -> None:
        wanted, found = self.spec.profile, before.profile
        is_same = (
            wanted.search == found.search
            and wanted.goal.optimize == found.goal.optimize
            and wanted.goal.require == found.goal.require[: len(wanted.goal.require)]
        )
        if not is_same:
            raise InvalidData(f"{self.file.name} is of another grid or goal; remove it")

    def _check_ours(self, before: Sweep) -> None:
        """An incomplete sweep can be gone on with where it was begun, with what it has made."""
        here = (self.spec.original_sha256, machine_of(this_host(self.spec.cpus)))
        if here != (before.original_sha256, before.machine):
            raise InvalidData(f"{self.file.name} was begun elsewhere, or with another model")
        if before.pieces and not self._cache.exists():
            raise InvalidData(f"what {self.file.name} has made is gone; remove that file too")

    def _begun(self, assessor: Assessor) -> Sweep:
        """A new sweep, written without its pieces."""
        spec, host = self.spec, this_host(self.spec.cpus)
        evidence = profile(
            spec.original_file,
            spec.original_session,
            host=host,
            task=spec.task,
            data=spec.data,
            seed=spec.seed,
        )
        sweep = Sweep(
            model=spec.model,
            about=self.about,
            items=dict(evidence.data),
            profile=replace(spec.profile, goal=assessor.goal),
            evidence=evidence,
            original_sha256=spec.original_sha256,
            machine=machine_of(host),
            versions={package: version(package) for package in PACKAGES},
            when=time.strftime("%Y-%m-%d", time.gmtime()),
        )
        for recipe in sweep.recipes:
            if any(step.stage is Stage.SESSION for step in recipe.steps):
                raise InvalidData(f"{recipe}: what sessions are tuned by measuring is never kept")
        begin_sweep(self.file, sweep)
        return sweep

    @contextmanager
    def _evaluator(self) -> Iterator[tuple[Measuring, _Timed]]:
        self.home.mkdir(parents=True, exist_ok=True)
        spec = replace(self.spec, cache=self._cache, cache_limit_bytes=_CACHE_BYTES)
        terms = Terms(
            original=spec.original_file,
            original_session=spec.original_session,
            goal=spec.profile.goal,
            task=spec.task,
            data=spec.data["search"],
            host=this_host(spec.cpus),
            price=spec.price,
            seed=spec.seed,
        )
        turns = Turns(self.home / "measuring", 1)
        with (
            _Timed(terms) as assessor,
            Candidates(
                spec, self.home, self.home / "recipes", turns, status=lambda: (0.0, "sweep")
            ) as candidates,
        ):
            yield Measuring(candidates, assessor, turns, lambda: math.inf), assessor


def machine_of(host: Host) -> str:
    """A machine, for people."""
    vnni = "with" if host.has_vnni else "without"
    return f"{host.processor}, {host.cpus} processors, {vnni} VNNI, {platform.platform()}"


def _tried(
    measuring: Measuring, assessor: _Timed, recipe: Recipe, level: Level, made: set[str]
) -> Piece:
    before = assessor.spent_s
    measured = measuring.evaluate(recipe, level)
    measuring_s = assessor.spent_s - before
    return Piece(
        recipe=recipe,
        level=level,
        figures=measured.figures,
        broken=measured.broken,
        building_s=measured.seconds - measuring_s,
        measuring_s=measuring_s,
        made=tuple(one for one in beginnings(recipe, level) if one not in made),
    )
