"""Where nothing holds the goal, the trial that came closest is named with what it misses."""

from __future__ import annotations

from optimizers.contract.evaluation import Estimate, Figure
from optimizers.contract.goal import FigureName, Goal, parse_requirement
from optimizers.contract.quantization import DynamicInt8
from optimizers.contract.recipe import Recipe
from optimizers.contract.study import Trial, TrialState
from optimizers.search.nearest_miss import missed_requirements, nearest_miss

GOAL = Goal(optimize=(FigureName.SIZE,), require=(parse_requirement("agreement >= 0.97"),))


def trial(number: int, agreement: float, state: TrialState = TrialState.COMPLETE) -> Trial:
    half = Estimate(value=0.5, lower=0.5, upper=0.5)
    return Trial(
        number=number,
        recipe=Recipe(steps=(DynamicInt8(),)),
        origin="random",
        state=state,
        level=2 if state is TrialState.COMPLETE else 1,
        levels=2,
        figures=(
            Figure(
                name=FigureName.SIZE, unit="B", samples=1, value=half, original=half, ratio=half
            ),
            Figure(
                name=FigureName.AGREEMENT,
                unit="",
                samples=400,
                value=Estimate(value=agreement, lower=agreement - 0.02, upper=agreement + 0.01),
            ),
        ),
    )


def test_the_nearest_by_its_bounds_is_named_with_its_numbers() -> None:
    trials = [trial(0, 0.7), trial(1, 0.98), trial(2, 0.9)]
    assert nearest_miss(GOAL, trials) == (
        "trial 1 (dynamic_int8) came closest: 'agreement >= 0.97': by its bound agreement is at "
        "least 0.9600 (measured 0.9800), 400 samples"
    )


def test_who_was_measured_to_the_end_comes_before_who_was_not() -> None:
    trials = [trial(0, 0.7), trial(1, 0.98, TrialState.HALVED)]
    assert nearest_miss(GOAL, trials).startswith("trial 0")
    said = nearest_miss(GOAL, trials[1:])
    assert said.startswith("trial 1")
    assert said.endswith("(it was taken to level 1 of 2)")


def test_without_a_measured_trial_nothing_is_said() -> None:
    assert nearest_miss(GOAL, []) == ""
    assert nearest_miss(GOAL, [trial(0, 0.9, TrialState.FAILED)]) == ""


def test_a_trial_that_misses_nothing_has_nothing_to_say() -> None:
    assert missed_requirements(GOAL, trial(0, 1.0)) == ()
