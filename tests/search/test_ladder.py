"""Who climbs is the best third, and does not depend on who asks."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from optimizers.contract.architecture import Merge
from optimizers.contract.distillation import Distill
from optimizers.contract.quantization import QuantizeAware, StaticInt8, WeightsNbits
from optimizers.contract.recipe import Recipe
from optimizers.contract.steps import Step
from optimizers.contract.training import Training
from optimizers.search.evaluator import Level
from optimizers.search.ladder import Ladder, Standing, brackets

TRAINS = Recipe(steps=(Distill(),))
LEVELS = Ladder().levels(0, TRAINS)
STRUCTURE, NINTH, THIRD, WHOLE = LEVELS


def standing(number: int, *values: float, violation: float = 0.0, at: Level = NINTH) -> Standing:
    return Standing(number=number, level=at, values=values, violation=violation)


NINE = (
    standing(0, 1.0, 9.0),  # on the front
    standing(1, 2.0, 9.5),  # behind 0
    standing(2, 3.0, 3.0),  # on the front
    standing(3, 0.5, 0.5, violation=0.1),  # on the front, though it misses something
    standing(4, 4.0, 4.0),  # behind 2
    standing(5, 9.0, 1.0),  # on the front
    standing(6, 9.0, 9.0),
    standing(7, 5.0, 5.0),
    standing(8, 9.5, 2.0),  # behind 5
)


def test_the_third_that_nothing_dominates_climbs_with_what_is_missed_as_one_more_aim() -> None:
    assert set(Ladder().climbers(NINE)) == {0, 3, 5}
    hopeless = standing(3, 9.6, 9.6, violation=0.1)
    assert set(Ladder().climbers((*NINE[:3], hopeless, *NINE[4:]))) == {0, 2, 5}


def test_what_misses_least_climbs_where_everything_misses_something() -> None:
    rung = [standing(number, 1.0, violation=9.0 - number) for number in range(6)]
    assert Ladder().climbers(rung) == (5, 4)


def test_nobody_climbs_twice_and_a_place_stays_taken() -> None:
    climbed = (*NINE, standing(0, 1.0, 9.0, at=THIRD), standing(2, 2.0, 2.0, at=THIRD))
    assert set(Ladder().climbers(climbed)) - {0, 2} == {3, 5}


def test_who_has_got_further_does_not_climb_from_where_it_was() -> None:
    done = [standing(0, 1.0, at=level) for level in LEVELS]
    assert Ladder().climbers([*done, standing(1, 2.0), standing(2, 3.0)]) == ()


def test_the_highest_level_goes_first() -> None:
    assert Ladder().climbers((*NINE, standing(0, 1.0, 9.0, at=THIRD)))[0] == 0


def test_the_best_of_two_climbs_so_that_something_is_trained_to_the_end() -> None:
    assert Ladder().climbers([standing(0, 2.0), standing(1, 1.0)]) == (1,)


def test_who_waited_climbs_once_others_are_measured() -> None:
    three = [standing(0, 1.0, at=THIRD), standing(0, 1.0), standing(1, 2.0), standing(2, 3.0)]
    assert 1 not in Ladder().climbers(three)
    six = [*three, standing(3, 4.0), standing(4, 5.0), standing(5, 6.0)]
    assert 1 in Ladder().climbers(six)


def test_everybody_leaves_the_level_of_structure() -> None:
    rung = [standing(number, float(number), at=STRUCTURE) for number in range(5)]
    assert Ladder().climbers(rung) == (0, 1, 2, 3, 4)


def test_who_has_all_of_its_training_is_done() -> None:
    assert Ladder().climbers([standing(0, 1.0, at=WHOLE)]) == ()


def test_who_climbs_depends_on_no_order_and_no_memory() -> None:
    shuffled = list(NINE)
    random.Random(5).shuffle(shuffled)
    assert Ladder().climbers(shuffled) == Ladder().climbers(NINE)


def test_a_trial_that_trains_gets_a_ninth_a_third_and_all() -> None:
    assert [level.training_share for level in LEVELS] == [0, 1 / 9, 1 / 3, 1]
    assert [level.index for level in LEVELS] == [1, 2, 3, 4]
    assert [level.is_structure for level in LEVELS] == [True, False, False, False]


@pytest.mark.parametrize(
    ("step", "levels"),
    [
        (Merge(), 2),
        (StaticInt8(), 2),
        (WeightsNbits(), 2),
        (WeightsNbits(training=Training()), 4),
        (QuantizeAware(), 4),
    ],
    ids=str,
)
def test_only_what_trains_is_taken_up_in_shares(step: Step, levels: int) -> None:
    found = Ladder().levels(0, Recipe(steps=(step,)))
    assert len(found) == levels
    assert found[-1].training_share == 1


def test_brackets_are_those_of_the_paper() -> None:
    # Li et al., JMLR 18, 2018, table 1: R = 81, eta = 3.
    assert [bracket.rungs for bracket in brackets(81)] == [
        ((81, 1), (27, 3), (9, 9), (3, 27), (1, 81)),
        ((34, 3), (11, 9), (3, 27), (1, 81)),
        ((15, 9), (5, 27), (1, 81)),
        ((8, 27), (2, 81)),
        ((5, 81),),
    ]
    assert [bracket.halvings for bracket in brackets(81)] == [4, 3, 2, 1, 0]


def test_trials_are_spread_over_brackets_as_hyperband_does() -> None:
    ladder = Ladder(hyperband=True)
    first = [ladder.levels(number, TRAINS)[1].training_share for number in range(17 * 4)]
    sizes = {1 / 9: 9, 1 / 3: 5, 1.0: 3}
    assert [bracket.rungs[0][0] for bracket in brackets(9)] == [*sizes.values()]
    for turn in range(4):
        assert Counter(first[17 * turn : 17 * (turn + 1)]) == sizes
    assert len(set(first[:6])) == 3


def test_halving_takes_place_inside_a_bracket() -> None:
    ladder = Ladder(hyperband=True)
    begins = {number: ladder.levels(number, TRAINS)[1] for number in range(17)}
    at_third = [number for number, level in begins.items() if level.training_share == 1 / 3]
    others = [number for number, level in begins.items() if level.training_share == 1 / 9]
    rung = [standing(number, float(number), at=begins[number]) for number in at_third]
    rung += [standing(number, -1.0 - number, at=NINTH) for number in others]
    rung += [standing(number, -1.0 - number, at=THIRD) for number in others[:3]]
    climbers = ladder.climbers(rung)
    assert at_third[0] in climbers
    assert at_third[1] not in climbers
