"""Every trial that lost is told why, with the numbers that decided."""

from __future__ import annotations

from dataclasses import replace

import pytest

from optimizers.contract.described import recipe_text
from optimizers.contract.goal import FigureName
from optimizers.contract.pruning import PruneChannels
from optimizers.contract.quantization import StaticInt8
from optimizers.contract.recipe import Recipe
from optimizers.contract.study import Explanation, Trial, TrialState
from optimizers.search.explaining import why_lost, winner_text
from tests.support.explanations import (
    GOAL,
    WINNER,
    agreement,
    example_explanation,
    relative,
    trial,
    with_two_aims,
)


def told(explanation: Explanation, number: int) -> str:
    assert explanation.winner is not None
    front = [explanation.trial(one) for one in explanation.front]
    return why_lost(
        explanation.trial(number),
        explanation.trial(explanation.winner),
        explanation.profile.goal,
        front,
    )


def test_a_dominated_trial_names_who_is_better_and_in_what() -> None:
    text = told(example_explanation(), 0)
    assert text == (
        "trial 7 is better: latency_p50 at most 0.299 of the original's, "
        "here at most 0.474 of the original's"
    )


def test_a_missed_requirement_is_told_as_found_and_as_wanted() -> None:
    text = told(example_explanation(), 2)
    assert text.startswith("misses 'agreement >= 0.97'")
    assert "0.9520" in text, "the bound that decides, 0.958 - 0.006"
    assert "1000 samples" in text
    assert "size" not in text, "it holds that one"


def test_a_failed_step_keeps_its_words() -> None:
    text = told(example_explanation(), 4)
    assert text == "failed at level 1 of 2: weights_nbits: 2 bits need a MatMul, and there is none"


def test_an_abandoned_trial_keeps_the_bound_that_ended_it() -> None:
    bound = "latency_p50 is at least 1.27 of the original's, trial 7 has at most 0.299"
    lost = replace(example_explanation().trial(6), reason=bound)
    winner = example_explanation().trial(WINNER)
    assert why_lost(lost, winner, GOAL, [winner]) == f"abandoned at level 1 of 2: {bound}"


def test_an_abandoned_trial_without_a_noted_bound_is_told_who_is_better() -> None:
    winner = example_explanation().trial(WINNER)
    lost = replace(example_explanation().trial(6), reason="")
    assert why_lost(lost, winner, GOAL, [winner]) == (
        "abandoned at level 1 of 2: trial 7 is better: latency_p50 at most 0.299 of the "
        "original's, here at most 1.349 of the original's"
    )


def test_who_is_not_better_than_the_original_is_told_so() -> None:
    slow = trial(1, (), latency=0.99, size=0.3, agrees=0.99, violation=0.03)
    text = why_lost(slow, None, GOAL, [])
    assert text.startswith("latency_p50 is not better than the original's: 1.188 ms against 1.2 ms")
    assert "within [0.960, 1.020]" in text


def test_a_trial_whose_aim_could_not_be_measured_is_told_so() -> None:
    unknown = trial(1, (), size=0.3, agrees=0.99, violation=1.0)
    assert why_lost(unknown, None, GOAL, []) == (
        "latency_p50 could not be judged: it was not measured"
    )


def test_a_halved_trial_is_not_said_to_have_lost_to_whoever_won_later() -> None:
    text = told(example_explanation(), 5)
    assert "the winner is trial 7: latency_p50" in text
    assert "then" not in text


def test_a_requirement_that_nothing_was_measured_for_is_missed() -> None:
    unknown = trial(1, (), latency=0.4, size=0.3, violation=1.0)
    assert why_lost(unknown, None, GOAL, []) == (
        "'agreement >= 0.97' could not be judged: it was not measured"
    )


def test_a_figure_that_could_not_be_had_is_told_with_why() -> None:
    disturbed = "others used the machine"
    unknown = replace(
        trial(1, (), size=0.3, agrees=0.99, violation=1.0),
        missing={FigureName.LATENCY_P50: disturbed},
    )
    assert why_lost(unknown, None, GOAL, []) == f"latency_p50 could not be judged: {disturbed}"


def test_who_is_not_better_than_the_original_is_told_so_with_the_numbers() -> None:
    even = trial(1, (), latency=0.99, size=0.3, agrees=0.99, violation=0.04)
    text = why_lost(even, None, GOAL, [])
    assert text.startswith("latency_p50 is not better than the original's: 1.188 ms against 1.2 ms")


def test_a_halved_trial_names_its_rung_and_its_numbers() -> None:
    text = told(example_explanation(), 5)
    assert text.startswith("halved at level 2 of 4: waited to be trained further")
    assert "latency_p50 0.84 ms against 1.2 ms, at most 0.721 of the original's" in text
    assert "trial 7" in text


def test_the_winner_and_a_running_trial_lost_nothing() -> None:
    assert told(example_explanation(), WINNER) == ""
    assert told(example_explanation(), 11) == ""


@pytest.mark.parametrize("number", [2, 3, 4, 5, 6, 10])
def test_a_reason_that_was_noted_stays_as_it_is(number: int) -> None:
    explanation = example_explanation()
    first = told(explanation, number)
    noted = tuple(
        replace(one, reason=first) if one.number == number else one for one in explanation.trials
    )
    assert told(replace(explanation, trials=noted), number) == first


@pytest.mark.parametrize("one", example_explanation().trials, ids=lambda one: str(one.number))
def test_every_trial_that_has_ended_and_lost_has_a_reason_with_a_number(one: Trial) -> None:
    text = told(example_explanation(), one.number)
    assert bool(text) == (one.number != WINNER and one.state is not TrialState.RUNNING)
    assert not text or any(letter.isdigit() for letter in text)


def test_bounds_decide_and_not_means() -> None:
    noisy = replace(
        trial(1, ()), figures=(relative(FigureName.LATENCY_P50, 0.4, spread=0.5), agreement(0.99))
    )
    steady = replace(
        trial(2, ()), figures=(relative(FigureName.LATENCY_P50, 0.5, spread=0.01), agreement(0.99))
    )
    assert why_lost(noisy, steady, GOAL, [steady]) == (
        "trial 2 is better: latency_p50 at most 0.505 of the original's, "
        "here at most 0.600 of the original's"
    )


def test_a_trial_on_the_front_is_told_that_the_first_aim_decides() -> None:
    text = told(with_two_aims(), 8)
    assert text.startswith("on the front, but latency_p50 decides and trial 7 is better there")
    assert "size at most 0.170 of the original's, here at most 0.120 of the original's" in text


def test_with_two_aims_a_dominated_trial_names_its_better_in_both() -> None:
    text = told(with_two_aims(), 0)
    assert text.startswith("trial 7 is better: latency_p50")
    assert "size at most 0.170 of the original's, here at most 0.270 of the original's" in text


def test_without_a_winner_nothing_speaks_against_a_trial_that_holds_all() -> None:
    assert why_lost(example_explanation().trial(0), None, GOAL, []) == ""


def test_the_winner_is_told_with_its_gain_what_it_holds_and_who_came_next() -> None:
    explanation = example_explanation()
    text = winner_text(explanation.trial(WINNER), GOAL, explanation.trials)
    assert "0.348 ms against 1.2 ms, at most 0.299 of the original's" in text
    assert "it holds 'agreement >= 0.97', 'size <= 50 % worse'" in text
    assert text.endswith("next in latency_p50 is trial 0 with at most 0.474 of the original's")


def test_a_recipe_is_told_with_the_parameters_that_are_not_the_defaults() -> None:
    recipe = Recipe(steps=(PruneChannels(ratio=0.25), StaticInt8(correct_bias=True)))
    assert recipe_text(recipe) == "prune_channels (ratio 0.25) → static_int8 (correct_bias yes)"
    assert recipe_text(Recipe()) == "original"
    assert "distill (training.epochs 4)" in recipe_text(example_explanation().trial(2).recipe)
