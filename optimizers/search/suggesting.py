"""A space's questions as Optuna knows them: answered by a trial, as distributions, as JSON."""

from __future__ import annotations

from typing import Any, Final

from optuna import Study
from optuna.distributions import (
    BaseDistribution,
    CategoricalChoiceType,
    CategoricalDistribution,
    FloatDistribution,
)
from optuna.trial import Trial

from optimizers.contract.declaration import Choice, Range, Real, Value
from optimizers.contract.errors import InvalidDocument
from optimizers.contract.recipe import Recipe
from optimizers.search.space import Space

_SPACE: Final = "space"


def check_same_space(study: Study, space: Space, objectives: int) -> None:
    """Make sure that a study asks the questions of a space; a new one notes which these are.

    Raises:
        InvalidDocument: It was begun with other questions, or with other objectives.
    """
    dimensions = plain(space)
    before = study.user_attrs.get(_SPACE)
    if before is None:
        study.set_user_attr(_SPACE, dimensions)
        before = dimensions
    names = {*before, *dimensions}
    other = sorted(name for name in names if before.get(name) != dimensions.get(name))
    if other or len(study.directions) != objectives:
        what = f"of {', '.join(other)}" if other else "and other figures to optimise"
        raise InvalidDocument(
            f"study {study.study_name} was begun with other values {what}; go on with the same "
            "model, kinds of data, provider, goal and search, or begin another one"
        )


def composed(space: Space, trial: Trial, *, all_answers: bool = False) -> Recipe:
    """The recipe whose questions a trial answers; what it has answered before stays.

    Args:
        space: Of the recipe.
        trial: One that runs; it gets a parameter for each question asked.
        all_answers: Whether it is asked what does not matter to its recipe as well.
    """

    def choose(name: str, one: Range) -> Value:
        if isinstance(one, Real):
            return trial.suggest_float(name, one.low, one.high, log=one.log)
        return _answer(trial.suggest_categorical(name, one.values))

    if all_answers:
        for name, one in space.dimensions.items():
            choose(name, one)
    return space.recipe(choose)


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Every question of a space, as Optuna stores it."""
    return {name: _distribution(one) for name, one in space.dimensions.items()}


def plain(space: Space) -> dict[str, list[Any]]:
    """Every question of a space as plain data, equal where the spaces are."""
    return {
        name: list(one.values) if isinstance(one, Choice) else ["from", one.low, one.high, one.log]
        for name, one in space.dimensions.items()
    }


def _distribution(one: Range) -> BaseDistribution:
    if isinstance(one, Choice):
        return CategoricalDistribution(one.values)
    return FloatDistribution(one.low, one.high, log=one.log)


def _answer(choice: CategoricalChoiceType) -> Value:
    assert choice is not None, "no step declares None as a value"
    return choice
