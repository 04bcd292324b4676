"""Who proposes the next recipe, and who remembers what came of it: Optuna.

A trial of Optuna carries the answers that `Space.recipe` asked for as its parameters, and as its
attributes what a study must know to go on: the recipe itself, who proposed it, what was told. One
that was put in from outside the space has a recipe and no parameters; samplers cannot learn from
it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from math import inf, isnan

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import RandomSampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from optimizers.contract.recipe import Recipe
from optimizers.contract.search import Sampler
from optimizers.search.learned import best_of, note_taught, teach, was_taught
from optimizers.search.records import (
    AGAIN,
    DUPLICATE,
    ORIGIN,
    REASON,
    RECIPE,
    VIOLATION,
    Asked,
    Known,
    Told,
    asked_of,
    had,
    is_repeated,
    last_number,
    note_values,
    own_trials,
    recipe_key,
    recipe_of,
    told_of,
)
from optimizers.search.samplers import MOST_IN_VAIN, SeededByTrial
from optimizers.search.space import Space
from optimizers.search.storage import open_storage
from optimizers.search.suggesting import check_same_space, composed

__all__ = ["Asked", "Known", "Sampling", "Told"]


class Sampling:
    """A study: what was proposed, what runs, what was told; several processes may hold one.

    Not for several threads at once.

    Args:
        space: What may be proposed.
        study: Name of the study; one that exists is gone on with.
        sampler: Who proposes.
        objectives: How many values a trial has, at least 1; each is minimised.
        seed: Of everything random; the same seed and history propose the same.
        trials: How many recipes will be asked for, as far as is known; what a sampler has to
            learn from before it proposes anything depends on it.
        storage: URL of the database, such as `sqlite:////path/study.db`; "": in memory.

    Raises:
        InvalidDocument: The study was begun with another space or other objectives.
        NotSupported: The database cannot be opened here.
    """

    def __init__(
        self,
        space: Space,
        *,
        study: str,
        sampler: Sampler,
        objectives: int,
        seed: int,
        trials: int,
        storage: str = "",
    ) -> None:
        self._space = space
        self._sampler = sampler
        self._objectives = objectives
        self._storage = open_storage(storage)
        self._proposer = SeededByTrial(sampler, seed, trials)
        self._study = optuna.create_study(
            storage=self._storage,
            sampler=self._proposer,
            study_name=study,
            directions=["minimize"] * objectives,
            load_if_exists=True,
        )
        # Whatever looks at a trial has its sampler propose; who tells wants no proposal.
        self._telling = optuna.load_study(
            study_name=study, storage=self._storage, sampler=RandomSampler()
        )
        check_same_space(self._study, space, objectives)

    def close(self) -> None:
        """Let go of the database."""
        if isinstance(self._storage, RDBStorage):
            self._storage.remove_session()
            self._storage.engine.dispose()

    def ask(self) -> Asked | None:
        """The next recipe; None once every recipe of the space was proposed.

        What is enqueued comes first. A recipe that the study has had is not proposed again: when
        a sampler goes on to propose such, chance takes its place, and then the grid.
        """
        self._proposer.in_vain = 0
        while True:
            walk = self._sampler is Sampler.GRID or self._proposer.in_vain >= 2 * MOST_IN_VAIN
            if (
                walk
                and not own_trials(self._study, TrialState.WAITING)
                and not self._enqueue_from_grid()
            ):
                return None
            asked = self._drawn(only_enqueued=walk)
            if asked is not None:
                return asked
            self._proposer.in_vain += 1

    def tell(self, number: int, values: Sequence[float], violation: float = 0.0) -> None:
        """Record what came of a trial, whether it went to the end or was given up before.

        Samplers prefer what violates nothing, then small values. Without effect where somebody
        else has told it.

        Args:
            number: Of the trial.
            values: Of the objectives; infinite where the worst is meant, never NaN.
            violation: By how much it misses what is required, at least 0.
        """
        told = self._checked(values, violation)
        with suppress(UpdateFinishedTrialError):
            trial = self._trial(number)
            note_values(trial, told, violation)
            if not trial.params:
                self._study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
                return
            if VIOLATION not in self._frozen(number).constraints:
                trial.set_constraint(VIOLATION, violation)
            self._study.tell(number, told, skip_if_finished=True)

    def tell_so_far(self, number: int, values: Sequence[float], violation: float) -> None:
        """Record what is known of a trial that has not ended; see `tell`."""
        told = self._checked(values, violation)
        with suppress(UpdateFinishedTrialError):
            note_values(self._trial(number), told, violation)

    def fail(self, number: int, reason: str) -> None:
        """Record that nothing came of a trial, which samplers keep away from.

        Without effect where somebody else has told it.
        """
        with suppress(UpdateFinishedTrialError):
            trial = self._trial(number)
            trial.set_user_attr(REASON, reason)
            self._end_badly(trial)

    def enqueue(self, recipe: Recipe, origin: str, *, instead_of: int | None = None) -> bool:
        """Have a recipe asked before the sampler's own; it need not lie in the space.

        Args:
            recipe: What to do.
            origin: Who proposes it and why.
            instead_of: Number of a trial of this recipe that is not to count; None: it was not had.

        Returns:
            Whether it was taken: False where the study has had it, or it is empty.
        """
        if not recipe.steps or last_number(self._study, recipe) != instead_of:
            return False
        attributes = {RECIPE: recipe_key(recipe), ORIGIN: origin}
        if instead_of is not None:
            attributes[AGAIN] = str(instead_of)
        self._study.enqueue_trial(self._space.parameters(recipe) or {}, user_attrs=attributes)
        return True

    def warm(self, trials: Iterable[Known]) -> None:
        """Let the sampler learn from earlier studies, and enqueue the best recipes of them.

        They are not trials of this study: what was measured then counts for proposals only, and
        the best are to be measured again. Without effect on a study that was warmed before.

        Args:
            trials: In any order; those with another number of objectives, or of recipes that are
                not of the space, are passed over.
        """
        if was_taught(self._study):
            return
        known = [
            one
            for one in trials
            if len(one.values) == self._objectives
            and self._space.parameters(one.recipe) is not None
        ]
        if self._sampler is Sampler.TPE:
            for one in known:
                teach(self._study, self._space, one)
        for one in best_of(known):
            self.enqueue(one.recipe, "among the best of an earlier study")
        note_taught(self._study)

    def running(self) -> tuple[Asked, ...]:
        """Trials that were asked and neither told nor failed, by anybody."""
        return tuple(map(asked_of, own_trials(self._study, TrialState.RUNNING)))

    def resume(self, number: int) -> bool:
        """Go on with a trial that was asked, by anybody; False where it does not run any more.

        Whoever asked may have been gone before all parameters of the recipe were written, without
        which samplers could not learn from it.
        """
        running = own_trials(self._study, TrialState.RUNNING)
        frozen = next((one for one in running if one.number == number), None)
        if frozen is None:
            return False
        answers = self._space.parameters(asked_of(frozen).recipe) or {}
        wanted = self._space.dimensions if answers and self._crosses else answers
        try:
            if not wanted.keys() <= frozen.params.keys():
                self._composed(Trial(self._study, frozen._trial_id))
        except UpdateFinishedTrialError:
            return False
        return True

    def told(self) -> tuple[Told, ...]:
        """Every trial that has ended, in the order of their numbers."""
        return tuple(map(told_of, own_trials(self._study, TrialState.COMPLETE, TrialState.FAIL)))

    def _drawn(self, *, only_enqueued: bool) -> Asked | None:
        """What Optuna asks next; None where the study has had it, or it is the original.

        Args:
            only_enqueued: Whether chance is not to propose where another process was quicker to
                ask for what was enqueued.
        """
        trial = self._study.ask()
        key = trial.user_attrs.get(RECIPE)
        if key is None and only_enqueued:
            self._study.tell(trial, state=TrialState.FAIL)
            return None
        if key is None:
            recipe = self._composed(trial)
            trial.set_user_attr(ORIGIN, str(self._proposer.kind))
            trial.set_user_attr(RECIPE, recipe_key(recipe))
        else:
            recipe = recipe_of(key)
            self._answer(trial, recipe)
        enqueued = key is not None
        is_had = is_repeated(self._study, recipe, trial.number, enqueued=enqueued)
        if not recipe.steps or (is_had and AGAIN not in trial.user_attrs):
            trial.set_user_attr(DUPLICATE, True)
            self._study.tell(trial, state=TrialState.FAIL)
            return None
        return Asked(number=trial.number, recipe=recipe, origin=trial.user_attrs[ORIGIN])

    def _end_badly(self, trial: Trial) -> None:
        """End a trial of which nothing came, so that the sampler looks elsewhere.

        TPE models where bad values were told, so to it there is nothing worse. Genes die out by
        themselves.
        """
        if self._sampler is Sampler.TPE and trial.params:
            if VIOLATION not in self._frozen(trial.number).constraints:
                trial.set_constraint(VIOLATION, inf)
            self._study.tell(trial, [inf] * self._objectives, skip_if_finished=True)
        else:
            self._study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)

    def _answer(self, trial: Trial, recipe: Recipe) -> None:
        """Give a trial the parameters of its recipe, where they lie in the space."""
        if self._space.parameters(recipe) is not None:
            self._composed(trial)

    @property
    def _crosses(self) -> bool:
        """Whether trials are crossed in the answers that all of them have, so that all have all."""
        return self._sampler is Sampler.NSGA2

    def _composed(self, trial: Trial) -> Recipe:
        return composed(self._space, trial, all_answers=self._crosses)

    def _enqueue_from_grid(self) -> bool:
        """Enqueue the first recipe of the grid that the study has not had, if there is one.

        Returns:
            Whether there was one, even if another process was quicker to enqueue it.
        """
        before = had(self._study)
        for recipe in self._space.grid():
            if recipe_key(recipe) not in before:
                self.enqueue(recipe, str(Sampler.GRID))
                return True
        return False

    def _checked(self, values: Sequence[float], violation: float) -> list[float]:
        told = [float(value) for value in values]
        if len(told) != self._objectives or any(map(isnan, [*told, violation])):
            raise ValueError(f"expected {self._objectives} values and no NaN, got {told}")
        return told

    def _trial(self, number: int) -> Trial:
        return Trial(self._telling, self._frozen(number)._trial_id)

    def _frozen(self, number: int) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[number]
