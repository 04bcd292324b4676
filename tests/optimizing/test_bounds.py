"""The bounds hold as often as they say, over thousands of simulated gates of known truth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binom

from optimizers.contract.evaluation import Estimate, Gate
from optimizers.contract.goal import parse_requirement
from optimizers.evaluation.bounds import (
    clopper_pearson,
    gate_alpha,
    mean_interval,
    median_interval,
    paired_difference,
    per_figure_alpha,
    quantile_interval,
)
from optimizers.evaluation.fidelity import agreement_figure
from optimizers.evaluation.latency import LOOKS, Unit, measure
from optimizers.evaluation.quiet import Quiet, Usage
from optimizers.evaluation.task import accuracy_figure
from optimizers.evaluation.verdict import check_requirement

GATES = 2000


def most_errors(alpha: float, trials: int = GATES) -> int:
    """More errors than this happen once in a million to a bound that keeps its promise."""
    return int(binom.isf(1e-6, trials, alpha))


def misses(draw: Callable[[np.random.Generator], Estimate], truth: float) -> tuple[int, int]:
    """How often the truth lay below the lower bound, and above the upper one."""
    random = np.random.default_rng(0)
    below = above = 0
    for _ in range(GATES):
        estimate = draw(random)
        below += estimate.lower is not None and truth < estimate.lower
        above += estimate.upper is not None and truth > estimate.upper
    return below, above


@pytest.mark.parametrize("alpha", [0.05, 0.01])
@pytest.mark.parametrize("disagreement", [0.0, 0.005, 0.03, 0.2])
def test_agreement_is_above_its_bound_in_the_stated_share_of_gates(
    disagreement: float, alpha: float
) -> None:
    def draw(random: np.random.Generator) -> Estimate:
        return agreement_figure(random.random(500) >= disagreement, alpha).value

    below, above = misses(draw, 1 - disagreement)
    assert max(below, above) <= most_errors(alpha)


def test_a_variant_that_loses_too_much_is_proved_no_more_often_than_stated() -> None:
    alpha = 0.05
    requirement = parse_requirement("accuracy <= 1 point worse")
    random = np.random.default_rng(1)
    proved = 0
    for _ in range(GATES):
        original = random.random(800) < 0.95
        # Truly 1.001 points worse: loses 2 points of what was right, gains 1 elsewhere.
        change = random.random(800)
        variant = original & (change > 0.02106) | (~original & (change < 0.2))
        figure = accuracy_figure(original, variant, alpha)
        proved += check_requirement(requirement, figure, Gate.ACCURACY).passed is True
    assert proved <= most_errors(alpha)


def test_rebuilding_until_it_passes_does_not_work() -> None:
    """Twenty tries on the same gate data together stay below the one stated error."""
    random = np.random.default_rng(2)
    truth, confidence, fooled = 0.95, 0.95, 0
    for _ in range(GATES):
        for use in range(1, 21):
            same = random.random(300) < truth
            lower = agreement_figure(same, gate_alpha(confidence, use)).value.lower
            if lower is not None and lower > truth:
                fooled += 1
                break
    assert fooled <= most_errors(1 - confidence)


def test_bounds_of_several_figures_hold_together() -> None:
    random = np.random.default_rng(3)
    alpha, wrong = per_figure_alpha(0.05, 4), 0
    for _ in range(GATES):
        shares = [clopper_pearson(int(random.binomial(200, 0.9)), 200, alpha) for _ in range(4)]
        wrong += any(share.lower is not None and share.lower > 0.9 for share in shares)
    assert wrong <= most_errors(0.05)


def test_paired_difference_holds_whatever_the_dependence() -> None:
    def draw(random: np.random.Generator) -> Estimate:
        gains, losses, _ = random.multinomial(600, [0.02, 0.05, 0.93])
        return paired_difference(int(gains), int(losses), 600, 0.05)

    assert max(misses(draw, -0.03)) <= most_errors(0.05)


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_quantiles_hold_for_a_heavy_tail(share: float) -> None:
    def draw(random: np.random.Generator) -> Estimate:
        return quantile_interval(random.pareto(1.5, 700), share, 0.05)

    truth = (1 - share) ** (-1 / 1.5) - 1
    assert max(misses(draw, truth)) <= most_errors(0.05)


def test_a_mean_of_bounded_values_holds() -> None:
    def draw(random: np.random.Generator) -> Estimate:
        return mean_interval(random.beta(8, 1, 300), -1.0, 1.0, 0.05)

    assert max(misses(draw, 8 / 9)) <= most_errors(0.05)


def test_too_few_values_have_no_bound() -> None:
    assert median_interval([1.0, 2.0, 3.0], 0.01) == Estimate(value=2.0)


def test_clopper_pearson_gives_the_published_values() -> None:
    """8 of 10 at 95 % two-sided: [0.4439, 0.9748] (Clopper and Pearson's table)."""
    estimate = clopper_pearson(8, 10, 0.025)
    assert estimate.lower == pytest.approx(0.4439, abs=1e-4)
    assert estimate.upper == pytest.approx(0.9748, abs=1e-4)


def still() -> Usage:
    return Usage(clock=0.0, busy=0.0, stolen=0.0, own=0.0, processors=2)


def test_an_equally_fast_variant_is_called_faster_no_more_often_than_stated() -> None:
    """Looking at the interval several times while measuring flatters nobody."""
    random = np.random.default_rng(4)
    alpha, called_faster = 0.05, 0

    def window(unit: Unit) -> None:
        unit.seconds.append(float(random.lognormal(0.0, 0.2)))

    for _ in range(400):
        series = measure(
            window,
            window,
            lambda unit: unit.median,
            alpha=alpha,
            deadline=float("inf"),
            quiet=Quiet(still),
        )
        ratios = [b.median / a.median for a, b in zip(series.original, series.variant, strict=True)]
        upper = median_interval(ratios, alpha / len(LOOKS)).upper
        called_faster += upper is not None and upper < 1
    assert called_faster <= most_errors(alpha, 400)
