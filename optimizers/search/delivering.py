"""Sees to it that the winner's candidate, built on whichever machine, arrives where it is judged.

All of it is best effort: what does not arrive is built again, from the same recipe.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Final

from optimizers.artefacts import Artefact, Artefacts
from optimizers.contract.errors import InvalidData, NotSupported
from optimizers.contract.goal import Goal
from optimizers.contract.ingredients import code_sha256, step_keys
from optimizers.contract.job import Built, JobSpec
from optimizers.contract.manifest import MODEL_FILE
from optimizers.contract.recipe import Recipe
from optimizers.contract.study import Trial, TrialState
from optimizers.search.candidates import Candidate
from optimizers.search.evaluator import Level
from optimizers.search.handover import Handover
from optimizers.search.ledger import Ledger
from optimizers.search.levels import at_level
from optimizers.search.outcome import outcome

_log = logging.getLogger(__name__)

_WHOLE: Final = Level(index=2, training_share=1.0)
_LATEST: Final = 3
"""Feasible candidates that stay although they are not of the front."""


class Delivery:
    """The candidates of one study, as one of its processes hands them over."""

    def __init__(self, handover: Handover, goal: Goal, ledger: Ledger) -> None:
        """Hand over.

        Args:
            handover: Where candidates lie.
            goal: With the task's floors.
            ledger: The study's trials.
        """
        self._handover = handover
        self._goal = goal
        self._ledger = ledger

    def give(self, candidate: Candidate) -> None:
        """Keep a candidate that was measured to the end; one without steps is the original."""
        if not candidate.built.recipe.steps:
            return
        try:
            self._handover.give(candidate.model.parent, candidate.built)
        except NotSupported as error:
            _log.warning("the candidate of %s was not stored: %s", candidate.built.recipe, error)

    def tidy(self) -> None:
        """Let go of candidates but those that lead, are among the latest, or may be under way."""
        trials = [entry.trial for entry in self._ledger.all()]
        running = [one for one in trials if one.state is TrialState.RUNNING]
        ended = [one for one in trials if one.is_feasible]
        kept: list[Trial] = [*running, *ended[-_LATEST:], *outcome(self._goal, trials).front]
        try:
            self._handover.keep_only([at_level(one.recipe, _WHOLE) for one in kept])
        except NotSupported as error:
            _log.warning("candidates were not let go: %s", error)

    def fetch(self, recipe: Recipe, target: Path, spec: JobSpec, cache: Artefacts) -> Built | None:
        """Have the candidate of a recipe arrive, in `target`, which is replaced.

        Where a recipe chooses how the model is opened, that is done on the machine that serves:
        the model that arrives goes to the cache, so that building the recipe goes on from it.

        Args:
            recipe: Of the winner.
            target: A directory.
            spec: The job whose files it must have been made from.
            cache: Of this machine.

        Returns:
            How it came about; None where the recipe is to be built here.
        """
        shutil.rmtree(target, ignore_errors=True)
        wanted = at_level(recipe, _WHOLE)
        if not wanted.steps:
            return None
        try:
            built = self._handover.take(wanted, target)
            if built is None:
                return None
            _require_made_from(built, spec)
            if wanted == recipe:
                return built
            if built.made_from is not None:
                model = target / MODEL_FILE
                made = Artefact(model=model, session=built.session, records=built.records)
                cache.keep(step_keys(built.made_from, wanted.steps)[-1], made)
        except (InvalidData, NotSupported, OSError) as error:
            _log.warning("the winner's candidate did not arrive, it is built here: %s", error)
        shutil.rmtree(target, ignore_errors=True)
        return None


def _require_made_from(built: Built, spec: JobSpec) -> None:
    """Make sure that a candidate says of itself that it was made from a job's files.

    It goes into the cache, and its manifest, under what it says.

    Raises:
        InvalidData: It says something else.
    """
    said = built.made_from
    if said is None:
        return
    data = {purpose: digest for purpose, digest in spec.data_sha256.items() if purpose != "gate"}
    same = replace(
        said,
        task=spec.task,
        seed=spec.seed,
        original_sha256=spec.original_sha256,
        original_session=spec.original_session,
        data_sha256=data,
        models_sha256=spec.models_sha256,
        code_sha256=code_sha256(),
    )
    if said != same:
        raise InvalidData(f"the candidate of {built.recipe} was made from something else")
