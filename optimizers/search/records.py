"""What a study keeps of a trial besides the parameters that samplers learn from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from optuna import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from optimizers.contract.documents import Document
from optimizers.contract.recipe import Recipe, recipe_from_data

RECIPE: Final = "recipe"
ORIGIN: Final = "origin"
VALUES: Final = "values"
VIOLATION: Final = "violation"
REASON: Final = "reason"
DUPLICATE: Final = "duplicate"
AGAIN: Final = "again"
"""Where a recipe is tried once more: in place of which trial."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A recipe to try.

    Attributes:
        number: Of its trial in the study. Numbers grow; there may be gaps.
        recipe: What to do; never empty.
        origin: Who proposed it and why.
    """

    number: int
    recipe: Recipe
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What came of a recipe in an earlier study of the same original.

    Attributes:
        recipe: What was done.
        values: Of the objectives, each to be minimised.
        violation: By how much it missed what is required; 0: nothing.
    """

    recipe: Recipe
    values: tuple[float, ...]
    violation: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A trial that has ended.

    Attributes:
        number: Of its trial.
        recipe: What was done.
        origin: Who proposed it and why.
        values: Of the objectives, each to be minimised; empty where it failed.
        violation: By how much it missed what is required; 0: nothing.
        reason: Why it failed; "" where it did not.
    """

    number: int
    recipe: Recipe
    origin: str
    values: tuple[float, ...]
    violation: float = 0.0
    reason: str = ""


def recipe_key(recipe: Recipe) -> str:
    """A recipe as one line of JSON; the same recipe is the same line."""
    return json.dumps(recipe.to_data(), sort_keys=True)


def recipe_of(text: str) -> Recipe:
    """The recipe of a line that `recipe_key` wrote."""
    return recipe_from_data(json.loads(text), Document("", "stored recipe"))


def note_values(trial: Trial, values: Sequence[float], violation: float) -> None:
    """Note with a trial of Optuna what it came to, so far or in the end."""
    trial.set_user_attr(VALUES, list(values))
    trial.set_user_attr(VIOLATION, violation)


def own_trials(study: Study, *states: TrialState) -> list[FrozenTrial]:
    """The trials of a study that are of a recipe and no repetition, by number.

    Args:
        study: Optuna's.
        states: In any of these; none: in every state.
    """
    return [
        trial
        for trial in study.get_trials(deepcopy=False, states=states or None)
        if RECIPE in trial.user_attrs and DUPLICATE not in trial.user_attrs
    ]


def had(study: Study) -> frozenset[str]:
    """Keys of the recipes of all trials, those that wait among them."""
    return frozenset(trial.user_attrs[RECIPE] for trial in own_trials(study))


def last_number(study: Study, recipe: Recipe) -> int | None:
    """Number of the newest trial of a recipe, whatever its state; None where there is none."""
    key = recipe_key(recipe)
    numbers = (one.number for one in own_trials(study) if one.user_attrs[RECIPE] == key)
    return max(numbers, default=None)


def is_repeated(study: Study, recipe: Recipe, number: int, *, enqueued: bool) -> bool:
    """Whether another trial has the recipe of this one, which was written before.

    Of two that are enqueued alike, the first is kept. Of two that are drawn alike at once, at
    least one sees the other, and whoever does gives way.
    """
    key = recipe_key(recipe)
    return any(
        trial.user_attrs[RECIPE] == key
        and (trial.number < number if enqueued else trial.number != number)
        for trial in own_trials(study)
    )


def asked_of(trial: FrozenTrial) -> Asked:
    """What was asked by a trial of Optuna that has a recipe."""
    attributes = trial.user_attrs
    return Asked(
        number=trial.number,
        recipe=recipe_of(attributes[RECIPE]),
        origin=attributes[ORIGIN],
    )


def told_of(trial: FrozenTrial) -> Told:
    """What was told of a trial of Optuna that has a recipe."""
    attributes = trial.user_attrs
    return Told(
        number=trial.number,
        recipe=recipe_of(attributes[RECIPE]),
        origin=attributes[ORIGIN],
        values=() if REASON in attributes else tuple(attributes.get(VALUES, ())),
        violation=attributes.get(VIOLATION, 0.0),
        reason=attributes.get(REASON, ""),
    )
