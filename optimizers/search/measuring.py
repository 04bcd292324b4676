"""The evaluator of a live search: builds a recipe as far as a level says, and measures it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from optimizers.contract.errors import OutOfMemory
from optimizers.contract.goal import FigureName
from optimizers.contract.recipe import Recipe
from optimizers.contract.stage import Stage
from optimizers.search.assessment import Assessment, Assessor
from optimizers.search.builder import NotBuilt
from optimizers.search.candidates import Candidate, Candidates
from optimizers.search.evaluator import Level, Measured
from optimizers.search.levels import at_level
from optimizers.search.turns import Turns

_TIMED: Final = frozenset(
    {
        FigureName.LATENCY_P50,
        FigureName.LATENCY_P99,
        FigureName.THROUGHPUT,
        FigureName.COST,
    }
)


class Measuring:
    """Tries recipes on this machine."""

    def __init__(
        self,
        candidates: Candidates,
        assessor: Assessor,
        turns: Turns,
        seconds_left: Callable[[], float],
        keep: Callable[[Candidate], None] = lambda candidate: None,
    ) -> None:
        """Try them.

        Args:
            candidates: Who builds.
            assessor: Who measures, when it is our turn.
            turns: Who measures when.
            seconds_left: Until a build is cut.
            keep: Called with a candidate that was built and measured to the end and can be used.
        """
        self._candidates = candidates
        self._assessor = assessor
        self._turns = turns
        self._seconds_left = seconds_left
        self._keep = keep

    def evaluate(self, recipe: Recipe, level: Level) -> Measured:
        """Build and measure; see `search.evaluator`.

        Raises:
            TimeIsUp: The search's time ended before it was built.
        """
        began = time.monotonic()
        wanted, said = at_level(recipe, level), f"{recipe} at level {level.index}"
        try:
            with self._candidates.built(wanted, said, self._seconds_left) as candidate:
                records = candidate.built.records
                is_new = any(record.modified for record in records)
                if not is_new and _shows_all_changes(wanted, recipe, level):
                    notes = (note for one in records for note in one.notes)
                    raise NotBuilt(f"the recipe changes nothing: {'; '.join(notes)}")
                assessment = self._assessed(candidate, level)
                if level.training_share == 1 and not assessment.broken:
                    self._keep(candidate)
        except NotBuilt as error:
            return Measured(figures=(), seconds=time.monotonic() - began, broken=str(error))
        return Measured(
            figures=assessment.figures,
            seconds=time.monotonic() - began,
            broken=assessment.broken,
            missing=assessment.missing,
        )

    def _assessed(self, candidate: Candidate, level: Level) -> Assessment:
        """Measure; once more where others kept the machine busy.

        Raises:
            NotBuilt: It took too much memory.
        """
        assess = self._assessor.structure if level.is_structure else self._assessor.answers
        try:
            with self._turns.measuring():
                assessment = assess(candidate.model, candidate.built.session)
                if _was_disturbed(assessment):
                    assessment = assess(candidate.model, candidate.built.session)
        except (OutOfMemory, MemoryError) as error:
            raise NotBuilt("out of memory while it was measured") from error
        return assessment


def _shows_all_changes(built: Recipe, recipe: Recipe, level: Level) -> bool:
    """Whether a recipe that changed nothing at a level changes nothing at all.

    At the level of structure that is so where nothing trains; later how a model is opened is not
    chosen again, so that nothing follows for a recipe that chose it.
    """
    if level.is_structure:
        return built == recipe
    return all(step.stage is not Stage.SESSION for step in recipe.steps)


def _was_disturbed(assessment: Assessment) -> bool:
    """Whether a time was wanted and not had at all, as it is where others use the machine."""
    found = {figure.name for figure in assessment.figures}
    return not assessment.broken and not _TIMED.isdisjoint(assessment.missing.keys() - found)
