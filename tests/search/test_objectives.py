"""Bounds decide: what a trial is credited with, what it misses, and when it is given up."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizers.contract.evaluation import Estimate, Figure
from optimizers.contract.goal import FIGURES, FigureName, Goal, Requirement, parse_requirement
from optimizers.contract.recipe import Recipe
from optimizers.contract.study import Trial, TrialState
from optimizers.search.objectives import (
    STRUCTURAL,
    cannot_win,
    dominates,
    meets,
    never_known,
    objectives,
    search_alpha,
    violation,
)


def around(value: float, below: float, above: float) -> Estimate:
    return Estimate(value=value, lower=value - below, upper=value + above)


def figure(
    name: FigureName,
    value: Estimate,
    *,
    original: float | None = None,
    difference: Estimate | None = None,
    ratio: Estimate | None = None,
    under: str = "",
) -> Figure:
    return Figure(
        name=name,
        unit=FIGURES[name].unit,
        samples=400,
        value=value,
        original=None if original is None else Estimate(value=original),
        difference=difference,
        ratio=ratio,
        under=under,
    )


def timed(name: FigureName, ratio: Estimate, original: float = 1.0) -> Figure:
    """A figure that is known by its ratio to the original's."""
    lower, upper = ratio.lower or ratio.value, ratio.upper or ratio.value
    value = Estimate(value=ratio.value * original, lower=lower * original, upper=upper * original)
    difference = Estimate(
        value=(ratio.value - 1) * original,
        lower=(lower - 1) * original,
        upper=(upper - 1) * original,
    )
    return figure(name, value, original=original, difference=difference, ratio=ratio)


def trial(number: int, figures: tuple[Figure, ...], violated: float = 0.0) -> Trial:
    return Trial(
        number=number,
        recipe=Recipe(),
        origin="random",
        state=TrialState.COMPLETE,
        level=2,
        levels=2,
        figures=figures,
        violation=violated,
    )


FASTER = timed(FigureName.LATENCY_P50, around(0.5, 0.01, 0.01), original=0.004)
ACCURACY = figure(
    FigureName.ACCURACY,
    around(0.90, 0.03, 0.03),
    original=0.91,
    difference=around(-0.01, 0.02, 0.02),
    ratio=Estimate(value=0.989),
)
AGREEMENT = figure(FigureName.AGREEMENT, around(0.98, 0.02, 0.01))

# What the value would meet but the bound that speaks against the variant does not; what both do.
KINDS = {
    "absolute, lower is better": (FASTER, "latency_p50 <= 2.01 ms", "latency_p50 <= 2.05 ms"),
    "absolute, higher is better": (AGREEMENT, "agreement >= 0.97", "agreement >= 0.96"),
    "gain": (FASTER, "latency_p50 >= 1.99 ms better", "latency_p50 >= 1.95 ms better"),
    "gain, higher is better": (
        replace(ACCURACY, difference=around(0.05, 0.02, 0.02)),
        "accuracy >= 4 points better",
        "accuracy >= 3 points better",
    ),
    "relative gain": (FASTER, "latency_p50 >= 49.5 % better", "latency_p50 >= 49 % better"),
    "relative gain, higher is better": (
        timed(FigureName.THROUGHPUT, around(2.0, 0.1, 0.1)),
        "throughput >= 95 % better",
        "throughput >= 90 % better",
    ),
    "loss": (ACCURACY, "accuracy <= 2 points worse", "accuracy <= 3 points worse"),
    "loss, lower is better": (
        timed(FigureName.MEMORY, around(1.1, 0.05, 0.05), original=2.0**20),
        "memory <= 0.12 MiB worse",
        "memory <= 0.16 MiB worse",
    ),
    "relative loss": (
        timed(FigureName.LATENCY_P99, around(1.1, 0.05, 0.05)),
        "latency_p99 <= 12 % worse",
        "latency_p99 <= 16 % worse",
    ),
    "relative loss, higher is better": (
        timed(FigureName.THROUGHPUT, around(0.9, 0.05, 0.05)),
        "throughput <= 12 % worse",
        "throughput <= 16 % worse",
    ),
    "under something": (
        replace(AGREEMENT, under="noise 0.1"),
        "agreement under noise 0.1 >= 0.97",
        "agreement under noise 0.1 >= 0.96",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_requirement_of_any_kind_holds_by_its_bound_and_not_by_its_value(kind: str) -> None:
    measured, missed, held = KINDS[kind]
    goal = Goal(optimize=(FigureName.SQNR,))
    for text, holds in ((missed, False), (held, True)):
        requirement = parse_requirement(text)
        assert meets([requirement], [measured]) is holds
        violated = violation(replace(goal, require=(requirement,)), [measured])
        assert (violated == 0) is holds, violated


def test_what_is_judged_under_something_is_not_what_was_measured_without() -> None:
    noisy = parse_requirement("agreement under noise 0.1 >= 0.5")
    assert not meets([noisy], [AGREEMENT])
    assert not meets([parse_requirement("agreement >= 0.5")], [replace(AGREEMENT, under="noise 1")])


def test_nothing_required_is_never_met_and_something_unmeasured_is_not_either() -> None:
    assert not meets([], [AGREEMENT])
    both = [parse_requirement("agreement >= 0.9"), parse_requirement("size <= 1 MiB")]
    assert not meets(both, [AGREEMENT])


def test_a_violation_is_the_sum_of_shares_of_limits_that_bounds_miss() -> None:
    goal = Goal(
        optimize=(FigureName.SQNR,),
        require=(
            parse_requirement("agreement >= 0.98"),  # by its bound 0.96
            parse_requirement("latency_p50 <= 1.7 ms"),  # 2.04 ms
            parse_requirement("accuracy <= 1 point worse"),  # 3 points, of 0.90 that are allowed
            parse_requirement("latency_p50 >= 66 % better"),  # 0.51 of the original's, not 0.34
        ),
    )
    expected = 0.02 / 0.98 + 0.2 + 0.02 / 0.90 + 0.5
    assert violation(goal, [AGREEMENT, FASTER, ACCURACY]) == pytest.approx(expected)


def test_what_has_no_bound_is_missed_at_the_end_and_not_before() -> None:
    goal = Goal(optimize=(FigureName.SIZE,), require=(parse_requirement("agreement >= 0.9"),))
    smaller = timed(FigureName.SIZE, around(0.5, 0, 0))
    unbounded = replace(AGREEMENT, value=Estimate(value=0.99))
    for figures in ([smaller], [smaller, unbounded]):
        assert violation(goal, figures) == 1
        assert violation(goal, figures, whole=False) == 0


def test_who_is_not_better_than_the_original_by_its_bound_is_not_feasible() -> None:
    goal = Goal()
    even = timed(FigureName.LATENCY_P50, around(0.97, 0.02, 0.02))
    assert violation(goal, [even]) == pytest.approx(0.01)
    assert violation(goal, [timed(FigureName.LATENCY_P50, around(0.95, 0.02, 0.02))]) == 0
    assert violation(Goal(optimize=(FigureName.SIZE,)), [timed(FigureName.SIZE, around(1, 0, 0))])


def test_objectives_are_the_bounds_that_speak_against_the_variant() -> None:
    throughput = timed(FigureName.THROUGHPUT, around(2.0, 0.5, 0.5))
    goal = Goal(
        optimize=(
            *(FigureName.LATENCY_P50, FigureName.THROUGHPUT, FigureName.ACCURACY),
            *(FigureName.AGREEMENT, FigureName.SIZE),
        )
    )
    found = objectives(goal, [FASTER, throughput, ACCURACY, AGREEMENT])
    assert found == pytest.approx((math.log(0.51), -math.log(1.5), 0.03, -0.96, math.inf))


def test_alpha_is_shared_by_all_that_decides_about_one_trial() -> None:
    goal = Goal(
        require=(parse_requirement("agreement >= 0.9"), parse_requirement("size <= 1 MiB")),
        stop_when=(parse_requirement("size <= 1 kB"),),
    )
    assert search_alpha(goal) == pytest.approx(0.05 / 4)
    several = replace(goal, optimize=(FigureName.LATENCY_P50, FigureName.SIZE))
    assert search_alpha(several) == pytest.approx(0.05 / 5)


def test_a_trial_is_given_up_when_its_favourable_bound_misses_a_requirement() -> None:
    goal = Goal(require=(parse_requirement("latency_p50 <= 1.95 ms"),))
    assert "latency_p50 <= 1.95 ms" in cannot_win(goal, [FASTER], [])
    assert "at least 1.96 ms by its bound, the limit is 1.95 ms" in cannot_win(goal, [FASTER], [])
    in_doubt = Goal(require=(parse_requirement("latency_p50 <= 1.97 ms"),))
    assert cannot_win(in_doubt, [FASTER], []) == ""


def test_a_trial_is_given_up_when_it_cannot_become_better_than_the_original() -> None:
    slower = timed(FigureName.LATENCY_P50, around(1.2, 0.05, 0.05))
    assert "cannot become better than the original's" in cannot_win(Goal(), [slower], [])
    in_doubt = timed(FigureName.LATENCY_P50, around(1.0, 0.05, 0.05))
    assert cannot_win(Goal(), [in_doubt], []) == ""


def test_a_trial_is_given_up_for_a_feasible_member_of_the_front_only() -> None:
    slower = timed(FigureName.LATENCY_P50, around(0.7, 0.01, 0.01), original=0.004)
    assert cannot_win(Goal(), [slower], [trial(3, (FASTER,))]).startswith("trial 3 is better")
    assert cannot_win(Goal(), [slower], [trial(3, (FASTER,), violated=0.1)]) == ""


def test_a_trial_is_given_up_by_what_it_will_be_credited_with_and_not_by_what_it_may_be() -> None:
    """Its times are measured once: who is credited with less now is so in the end."""
    rival = trial(3, (FASTER,))
    wide = timed(FigureName.LATENCY_P50, around(0.5, 0.05, 0.05), original=0.004)
    assert cannot_win(Goal(), [wide], [rival]) == (
        "trial 3 is better whatever comes: latency_p50 0.510 of the original's there, 0.550 of the "
        "original's here"
    )
    as_good = timed(FigureName.LATENCY_P50, around(0.46, 0.05, 0.05), original=0.004)
    assert cannot_win(Goal(), [as_good], [rival]) == ""


def test_answers_after_little_training_give_nobody_up() -> None:
    goal = Goal(require=(parse_requirement("agreement >= 0.999"),))
    assert cannot_win(goal, [FASTER, AGREEMENT], []) == ""
    both = Goal(optimize=(FigureName.LATENCY_P50, FigureName.AGREEMENT))
    best = trial(1, (FASTER, AGREEMENT))
    worse = replace(AGREEMENT, value=around(0.5, 0.1, 0.1))
    slower = timed(FigureName.LATENCY_P50, around(0.7, 0.01, 0.01), original=0.004)
    assert cannot_win(both, [slower, worse], [best]) == ""


def test_a_better_trial_wins_where_not_even_perfect_answers_would_help() -> None:
    goal = Goal(optimize=(FigureName.LATENCY_P50, FigureName.SQNR))
    perfect = figure(FigureName.SQNR, Estimate(value=200.0, lower=200.0, upper=200.0))
    slower = timed(FigureName.LATENCY_P50, around(0.7, 0.01, 0.01), original=0.004)
    assert cannot_win(goal, [slower], [trial(4, (FASTER, perfect))]) == (
        "trial 4 is better whatever comes: latency_p50 0.510 of the original's there, 0.710 of "
        "the original's here, sqnr 200 there, 200 here at best"
    )


def test_what_must_hold_of_the_structure_and_is_not_known_can_never_be_shown() -> None:
    goal = Goal(
        require=(parse_requirement("agreement >= 0.9"), parse_requirement("memory <= 1 GiB"))
    )
    memory = timed(FigureName.MEMORY, around(0.9, 0.1, 0.1))
    assert never_known(goal, [FASTER, memory]) == "", "answers come later"
    assert never_known(goal, [FASTER]).startswith("memory could not be judged")
    unbounded = replace(FASTER, ratio=Estimate(value=0.5))
    assert never_known(goal, [unbounded, memory]).startswith("latency_p50 could not be judged")
    lower = replace(FASTER, ratio=Estimate(value=0.5, upper=0.6))
    assert never_known(goal, [lower, memory]) == "", "the bound that decides is there"
    two = replace(goal, optimize=(FigureName.LATENCY_P50, FigureName.THROUGHPUT))
    assert never_known(two, [FASTER, memory]) == "", "a further aim may be the worst"


ESTIMATES = st.tuples(st.floats(0.05, 3), st.floats(0, 0.5), st.floats(0, 0.5), st.booleans()).map(
    lambda parts: (
        Estimate(value=parts[0])
        if parts[3]
        else Estimate(
            value=parts[0], lower=parts[0] * (1 - parts[1]), upper=parts[0] * (1 + parts[2])
        )
    )
)


def at_most(one: Estimate, most: float) -> Estimate:
    return Estimate(
        value=min(one.value, most),
        lower=None if one.lower is None else min(one.lower, most),
        upper=None if one.upper is None else min(one.upper, most),
    )


def a_figure(name: FigureName) -> st.SearchStrategy[Figure]:
    if name is FigureName.AGREEMENT:
        return ESTIMATES.map(lambda one: figure(name, at_most(one, 1.0)))
    if name is FigureName.ACCURACY:
        return ESTIMATES.map(
            lambda one: replace(timed(name, at_most(one, 2.0)), ratio=Estimate(value=one.value))
        )
    return ESTIMATES.map(lambda one: timed(name, one))


NAMES = (
    *(FigureName.LATENCY_P50, FigureName.THROUGHPUT, FigureName.SIZE),
    *(FigureName.AGREEMENT, FigureName.ACCURACY),
)
FIGURE_SETS = st.tuples(*map(a_figure, NAMES))
REQUIREMENTS = st.lists(
    st.sampled_from(
        (
            *("latency_p50 >= 30 % better", "latency_p50 <= 900 ms", "throughput >= 1 /s better"),
            *("size <= 20 % worse", "size <= 1 B worse", "agreement >= 0.9"),
            *("accuracy <= 2 points worse", "throughput <= 10 % worse"),
        )
    ),
    unique=True,
    max_size=3,
).map(lambda texts: tuple(map(parse_requirement, texts)))


@settings(max_examples=600, deadline=None)
@given(
    aims=st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True),
    require=REQUIREMENTS,
    whole=FIGURE_SETS,
    others=st.lists(FIGURE_SETS, max_size=4),
    known=st.sets(st.sampled_from(sorted(STRUCTURAL))),
    early=FIGURE_SETS,
)
def test_who_would_have_been_feasible_and_on_the_front_is_never_given_up(
    aims: list[FigureName],
    require: tuple[Requirement, ...],
    whole: tuple[Figure, ...],
    others: list[tuple[Figure, ...]],
    known: set[FigureName],
    early: tuple[Figure, ...],
) -> None:
    goal = Goal(optimize=tuple(aims), require=require)
    front = [
        trial(number, figures, violation(goal, figures)) for number, figures in enumerate(others)
    ]
    own = objectives(goal, whole)
    better = (one.is_feasible and dominates(objectives(goal, one.figures), own) for one in front)
    if violation(goal, whole) or any(better):
        return
    # Answers of an earlier level stand beside the figures that do not change any more.
    figures = [one for one in whole if one.name in known]
    figures += [one for one in early if one.name not in STRUCTURAL]
    assert cannot_win(goal, figures, front) == ""
