"""What samplers learn from beside the trials that were told: those under way, earlier studies."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Final

import optuna
from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from optimizers.search.dominance import ranking
from optimizers.search.records import RECIPE, VALUES, VIOLATION, Known
from optimizers.search.space import Space
from optimizers.search.suggesting import distributions

_WARM: Final = "warm"
_BEST: Final = 3


def as_known(study: Study, asked: FrozenTrial) -> Study:
    """A study in memory with all that is known so far, for samplers that model values.

    What has ended is there as it was told. What is under way is there as far as it was measured,
    most of all what waits until it may go on with its training; of what nothing is known yet,
    there is nothing worse, so that others look elsewhere.

    Args:
        study: Whose trials these are.
        asked: The trial that is proposed for, which is left out.
    """
    known = optuna.create_study(directions=study.directions)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.RUNNING)):
        if trial.state is TrialState.COMPLETE:
            known.add_trial(trial)
        elif trial.number != asked.number and RECIPE in trial.user_attrs and trial.params:
            known.add_trial(_so_far(trial, len(study.directions)))
    return known


def came_to_nothing(known: Study) -> int:
    """How many trials of what is known have failed, or have not been measured yet."""
    return sum(
        trial.constraints.get(VIOLATION) == inf for trial in known.get_trials(deepcopy=False)
    )


def teach(study: Study, space: Space, known: Known) -> None:
    """Add what came of a recipe elsewhere; without effect where the recipe is not of the space."""
    answers = space.parameters(known.recipe)
    if answers is None:
        return
    known_as = distributions(space)
    study.add_trial(
        optuna.create_trial(
            params=answers,
            distributions={name: known_as[name] for name in answers},
            values=known.values,
            constraints={VIOLATION: known.violation},
            user_attrs={_WARM: True},
        )
    )


def best_of(known: Sequence[Known]) -> tuple[Known, ...]:
    """The few best of what is known from elsewhere."""
    if not known:
        return ()
    order = ranking([one.values for one in known], [one.violation for one in known])
    return tuple(known[index] for index in order[:_BEST])


def was_taught(study: Study) -> bool:
    """Whether a study was taught all that earlier ones know."""
    return bool(study.user_attrs.get(_WARM))


def note_taught(study: Study) -> None:
    """Note that a study was taught all that earlier ones know."""
    study.set_user_attr(_WARM, True)


def _so_far(trial: FrozenTrial, objectives: int) -> FrozenTrial:
    return optuna.create_trial(
        params=trial.params,
        distributions=trial.distributions,
        values=trial.user_attrs.get(VALUES, [inf] * objectives),
        constraints={VIOLATION: trial.user_attrs.get(VIOLATION, inf)},
    )
