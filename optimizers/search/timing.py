"""How candidates are timed: shortly, in turn with the original, until enough is known.

As at the gate units of four windows alternate, those in which others used the machine are void,
and bounds are order statistics at looks fixed beforehand. Here windows are shorter, looks fewer,
and an interval that is still wide when time is up stays so instead of being refused: it decides
nothing that it does not prove.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from optimizers.contract.evaluation import Estimate, Figure
from optimizers.contract.goal import FIGURES, FigureName, Goal, Relation
from optimizers.evaluation.limits import compare, compare_with_original
from optimizers.evaluation.quiet import Quiet
from optimizers.evaluation.series import Terms, Timing

LOOKS: Final = (10, 20, 40)
"""Units; 40 of them take some 3 s beside the time of waiting for a quiet machine."""

TIMING: Final = Timing(window_s=0.02, precise=0.05, unstable=float("inf"), same_runs=False)

_RELATIVE: Final = (Relation.RELATIVE_GAIN, Relation.RELATIVE_LOSS)


def short_terms(
    alpha: float, seconds: float, quiet: Quiet, is_settled: Callable[[Estimate], bool]
) -> Terms:
    """Terms of one question, which begins now.

    Args:
        alpha: Error probability of each bound, all looks together.
        seconds: Most time that it may take, waiting included.
        quiet: Judge of disturbances.
        is_settled: Whether bounds of the ratio leave nothing to be known of it.
    """
    return Terms(
        alpha=alpha,
        deadline=time.monotonic() + seconds,
        quiet=quiet,
        timing=TIMING,
        is_clear=is_settled,
        looks=LOOKS,
        keeps_unfinished=True,
    )


def settles(
    goal: Goal, name: FigureName, together: Sequence[FigureName]
) -> Callable[[Estimate], bool]:
    """When bounds of one figure's ratio leave nothing to be known of it.

    They do when a requirement, or being better at the first aim, is missed even by the bound that
    speaks for the variant: then the trial has lost. Where the goal asks nothing but relative
    requirements of all figures that are measured together, they also do when each of these is
    held or missed. Where one of them is an aim only precision will do.

    Args:
        goal: What is wanted.
        name: The figure whose ratio is known.
        together: All figures that the same measurement gives.
    """
    asked = [*goal.require, *goal.stop_when]
    of_name = [one for one in asked if one.figure is name and one.relation in _RELATIVE]
    all_relative = len(of_name) == sum(one.figure in together for one in asked)
    is_aim = any(one in together for one in goal.optimize)
    needed = [one for one in of_name if one in goal.require]

    def settled(ratio: Estimate) -> bool:
        figure = Figure(name=name, unit=FIGURES[name].unit, samples=1, value=ratio, ratio=ratio)
        lost = [compare(one, figure) for one in needed]
        if goal.optimize[0] is name:
            lost.append(compare_with_original(figure))
        if any(one.is_lost for one in lost):
            return True
        compared = [compare(one, figure) for one in of_name]
        return all_relative and not is_aim and all(one.holds or one.is_lost for one in compared)

    return settled
