"""The front and the winner, where not everything could be measured of every trial."""

from __future__ import annotations

from optimizers.contract.evaluation import Figure
from optimizers.contract.goal import FigureName, Goal
from optimizers.contract.pruning import PruneChannels
from optimizers.contract.recipe import Recipe
from optimizers.contract.study import Trial, TrialState
from optimizers.search.outcome import outcome
from tests.support.replays import exact

GOAL = Goal(optimize=(FigureName.LATENCY_P50, FigureName.THROUGHPUT))


def trial(number: int, *figures: Figure) -> Trial:
    return Trial(
        number=number,
        recipe=Recipe(steps=(PruneChannels(),)),
        origin="random",
        state=TrialState.COMPLETE,
        level=2,
        levels=2,
        figures=figures,
    )


def latency(share: float) -> Figure:
    return exact(FigureName.LATENCY_P50, share, 1.0)


def throughput(share: float) -> Figure:
    return exact(FigureName.THROUGHPUT, share, 1.0)


def test_a_further_aim_that_was_not_measured_counts_as_the_worst_and_the_first_may_win() -> None:
    trials = [trial(0, latency(0.5), throughput(2.0)), trial(1, latency(0.4))]
    found = outcome(GOAL, trials)
    assert [one.number for one in found.front] == [1, 0]
    assert found.winner == trials[1]


def test_who_is_nowhere_better_and_not_measured_in_all_is_behind() -> None:
    trials = [trial(0, latency(0.5), throughput(2.0)), trial(1, latency(0.5))]
    assert [one.number for one in outcome(GOAL, trials).front] == [0]


def test_who_was_not_measured_in_the_first_aim_is_no_winner() -> None:
    assert outcome(GOAL, [trial(0, throughput(2.0))]).winner is None
