"""Who proposes the next recipe, and who remembers what came of it: Optuna.

A trial of Optuna carries the answers that `Space.recipe` asked for as its parameters, and as its
attributes what a study must know to go on: the recipe itself, who proposed it, what was told. One
that was put in from outside the space has a recipe and no parameters; samplers cannot learn from
it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf, isnan
from typing import Final

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from optimizers.contract.errors import InvalidDocument
from optimizers.contract.recipe import Recipe
from optimizers.contract.search import Sampler
from optimizers.contract.steps import step_name
from optimizers.search.dominance import ranking
from optimizers.search.records import (
    DUPLICATE,
    ORIGIN,
    REASON,
    RECIPE,
    VALUES,
    VIOLATION,
    Asked,
    Known,
    Told,
    asked_of,
    recipe_of,
    recipe_text,
    told_of,
)
from optimizers.search.samplers import SeededByTrial
from optimizers.search.space import Space
from optimizers.search.storage import open_storage
from optimizers.search.suggesting import composed, distributions, plain

__all__ = ["Asked", "Known", "Sampling", "Told"]

_WARM: Final = "warm"
_SPACE: Final = "space"
_TRIES: Final = 8
"""How often a sampler, and then chance, may propose what the study has had."""
_BEST_OF_EARLIER: Final = 3


class Sampling:
    """A study: what was proposed, what runs, what was told; several processes may hold one.

    Not for several threads at once.

    Args:
        space: What may be proposed.
        study: Name of the study; one that exists is gone on with.
        sampler: Who proposes.
        objectives: How many values a trial has, at least 1; each is minimised.
        seed: Of everything random; the same seed and history propose the same.
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
        storage: str = "",
    ) -> None:
        self._space = space
        self._sampler = sampler
        self._objectives = objectives
        self._storage = open_storage(storage)
        self._proposer = SeededByTrial(sampler, seed)
        self._study = optuna.create_study(
            storage=self._storage,
            sampler=self._proposer,
            study_name=study,
            directions=["minimize"] * objectives,
            load_if_exists=True,
        )
        self._check_same_work()

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
        for tries in range(3 * _TRIES):
            self._proposer.at_random = tries >= _TRIES
            walk = self._sampler is Sampler.GRID or tries >= 2 * _TRIES
            if walk and not self._trials(TrialState.WAITING) and not self._enqueue_from_grid():
                return None
            asked = self._drawn()
            if asked is not None:
                return asked
        return None

    def tell(self, number: int, values: Sequence[float], violation: float = 0.0) -> None:
        """Record what came of a trial, whether it went to the end or was given up before.

        Samplers prefer what violates nothing, then small values. Without effect where somebody
        else has told it.

        Args:
            number: Of the trial.
            values: Of the objectives; infinite where the worst is meant, never NaN.
            violation: By how much it misses what is required, at least 0.
        """
        told = [float(value) for value in values]
        if len(told) != self._objectives or any(map(isnan, [*told, violation])):
            raise ValueError(f"expected {self._objectives} values and no NaN, got {told}")
        trial = self._trial(number)
        try:
            if not trial.params:  # who asked it may have died before it had its answers
                self._answer(trial, recipe_of(trial.user_attrs[RECIPE]))
            trial.set_user_attr(VALUES, told)
            trial.set_user_attr(VIOLATION, violation)
            if not trial.params:
                self._study.tell(number, state=TrialState.FAIL)
                return
            if VIOLATION not in self._frozen(number).constraints:
                trial.set_constraint(VIOLATION, violation)
            self._study.tell(number, told, skip_if_finished=True)
        except UpdateFinishedTrialError:
            return

    def fail(self, number: int, reason: str) -> None:
        """Record that nothing came of a trial, which samplers keep away from.

        Without effect where somebody else has told it.
        """
        trial = self._trial(number)
        try:
            trial.set_user_attr(REASON, reason)
            self._end_badly(trial)
        except UpdateFinishedTrialError:
            return

    def enqueue(self, recipe: Recipe, origin: str) -> bool:
        """Have a recipe asked before the sampler's own; it need not lie in the space.

        Returns:
            Whether it was taken: False where the study has had it, or it is empty.
        """
        if not recipe.steps or recipe_text(recipe) in self._had():
            return False
        self._study.enqueue_trial(
            self._space.parameters(recipe) or {},
            user_attrs={RECIPE: recipe_text(recipe), ORIGIN: origin},
        )
        return True

    def warm(self, trials: Iterable[Known]) -> None:
        """Let the sampler learn from earlier studies, and enqueue the best recipes of them.

        They are not trials of this study: what was measured then counts for proposals only, and
        the best are to be measured again. Without effect on a study that was warmed before.

        Args:
            trials: In any order; those with another number of objectives are passed over.
        """
        if self._study.user_attrs.get(_WARM):
            return
        steps = set(self._space.steps)
        known = [
            one
            for one in trials
            if len(one.values) == self._objectives
            and one.recipe.steps
            and {step_name(step) for step in one.recipe.steps} <= steps
        ]
        if self._sampler is Sampler.TPE:
            for one in known:
                self._teach(one)
        if known:
            order = ranking([one.values for one in known], [one.violation for one in known])
            for index in order[:_BEST_OF_EARLIER]:
                self.enqueue(known[index].recipe, "among the best of an earlier study")
        self._study.set_user_attr(_WARM, True)

    def running(self) -> tuple[Asked, ...]:
        """Trials that were asked and neither told nor failed, by anybody."""
        return tuple(map(asked_of, self._trials(TrialState.RUNNING)))

    def told(self) -> tuple[Told, ...]:
        """Every trial that has ended, in the order of their numbers."""
        return tuple(map(told_of, self._trials(TrialState.COMPLETE, TrialState.FAIL)))

    def _drawn(self) -> Asked | None:
        """What Optuna asks next; None where the study has had it, or it is the original."""
        trial = self._study.ask()
        text = trial.user_attrs.get(RECIPE)
        if text is None:
            recipe = self._composed(trial)
            trial.set_user_attr(ORIGIN, str(self._proposer.kind))
            trial.set_user_attr(RECIPE, recipe_text(recipe))
        else:
            recipe = recipe_of(text)
            self._answer(trial, recipe)
        if not recipe.steps or self._is_known(recipe, trial.number, enqueued=text is not None):
            trial.set_user_attr(DUPLICATE, True)
            self._end_badly(trial)
            return None
        return Asked(number=trial.number, recipe=recipe, origin=trial.user_attrs[ORIGIN])

    def _end_badly(self, trial: Trial) -> None:
        """End a trial of which nothing came, so that the sampler looks elsewhere.

        TPE models where bad values were told, so to it there is nothing worse; without that it
        was seen to propose the same recipe until its tries were used up. Genes die out by
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

    def _composed(self, trial: Trial) -> Recipe:
        # NSGA-II crosses parents in the answers that all trials have, so there all have all.
        return composed(self._space, trial, all_answers=self._sampler is Sampler.NSGA2)

    def _enqueue_from_grid(self) -> bool:
        """Enqueue the first recipe of the grid that the study has not had, if there is one."""
        had = self._had()
        for recipe in self._space.grid():
            if recipe_text(recipe) not in had:
                return self.enqueue(recipe, str(Sampler.GRID))
        return False

    def _teach(self, known: Known) -> None:
        answers = self._space.parameters(known.recipe)
        if answers is None:
            return
        known_as = distributions(self._space)
        self._study.add_trial(
            optuna.create_trial(
                params=answers,
                distributions={name: known_as[name] for name in answers},
                values=known.values,
                constraints={VIOLATION: known.violation},
                user_attrs={_WARM: True},
            )
        )

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        """The study's own trials in some states, by number."""
        return [
            trial
            for trial in self._study.get_trials(deepcopy=False, states=states or None)
            if RECIPE in trial.user_attrs and DUPLICATE not in trial.user_attrs
        ]

    def _had(self) -> frozenset[str]:
        """Recipes of all trials, those that wait among them."""
        return frozenset(trial.user_attrs[RECIPE] for trial in self._trials())

    def _is_known(self, recipe: Recipe, number: int, *, enqueued: bool) -> bool:
        """Whether another trial has the recipe of this one, which was written before.

        Of two that are enqueued alike, the first is kept. Of two that are drawn alike at once, at
        least one sees the other, and whoever does gives way.
        """
        text = recipe_text(recipe)
        return any(
            trial.user_attrs[RECIPE] == text
            and (trial.number < number if enqueued else trial.number != number)
            for trial in self._trials()
        )

    def _trial(self, number: int) -> Trial:
        return Trial(self._study, self._frozen(number)._trial_id)

    def _frozen(self, number: int) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[number]

    def _check_same_work(self) -> None:
        dimensions = plain(self._space)
        before = self._study.user_attrs.get(_SPACE)
        if before is None:
            self._study.set_user_attr(_SPACE, dimensions)
            before = dimensions
        names = {*before, *dimensions}
        other = sorted(name for name in names if before.get(name) != dimensions.get(name))
        if other or len(self._study.directions) != self._objectives:
            what = f"of {', '.join(other)}" if other else "and other figures to optimise"
            raise InvalidDocument(
                f"study {self._study.study_name} was begun with other values {what}; go on with "
                "the same model, kinds of data, provider, goal and search, or begin another one"
            )
