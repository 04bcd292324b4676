"""The statistics behind every verdict: one-sided bounds that hold for any distribution.

Each function takes `alpha`, the probability with which one bound may be wrong. Where a function
returns a lower and an upper bound, each alone is wrong with probability at most `alpha`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, binom

from optimizers.contract.evaluation import Estimate


def gate_alpha(confidence: float, use: int) -> float:
    """What the `use`-th look at the same gate data may spend: (1 - confidence) / 2^use.

    The sum over all uses stays below 1 - confidence, so that rebuilding until it passes does
    not work (a union bound over an unlimited number of attempts).
    """
    return (1 - confidence) / float(2**use)


def per_figure_alpha(alpha: float, figures: int) -> float:
    """Bonferroni: with `alpha / figures` each, all bounds hold together."""
    return alpha / max(1, figures)


def clopper_pearson(successes: int, trials: int, alpha: float) -> Estimate:
    """Bounds of a share from independent trials.

    The exact interval of Clopper and Pearson (Biometrika 26, 1934): with x successes of n,
    lower = Beta(alpha; x, n - x + 1) and upper = Beta(1 - alpha; x + 1, n - x) quantiles.

    Args:
        successes: In [0, trials].
        trials: At least 1.
        alpha: Error probability of each bound.
    """
    lower = beta.ppf(alpha, successes, trials - successes + 1) if successes else 0.0
    upper = beta.ppf(1 - alpha, successes + 1, trials - successes) if successes < trials else 1.0
    return Estimate(value=successes / trials, lower=float(lower), upper=float(upper))


def paired_difference(gains: int, losses: int, trials: int, alpha: float) -> Estimate:
    """Bounds of accuracy(variant) - accuracy(original) on the same items.

    The difference is the share of items only the variant gets right minus the share only the
    original does. Each share has its Clopper-Pearson bound at alpha / 2; a union bound joins
    them, so it holds for any dependence (compare McNemar's test, Psychometrika 12, 1947).

    Args:
        gains: Items that only the variant gets right.
        losses: Items that only the original gets right.
        trials: All items.
        alpha: Error probability of each bound.
    """
    gained = clopper_pearson(gains, trials, alpha / 2)
    lost = clopper_pearson(losses, trials, alpha / 2)
    assert gained.lower is not None
    assert gained.upper is not None
    assert lost.lower is not None
    assert lost.upper is not None
    return Estimate(
        value=(gains - losses) / trials,
        lower=gained.lower - lost.upper,
        upper=gained.upper - lost.lower,
    )


def quantile_interval(
    values: Sequence[float] | NDArray[np.float64], share: float, alpha: float
) -> Estimate:
    """Distribution-free bounds of a quantile from order statistics.

    With n independent values, the number below the true quantile is Binomial(n, share), so the
    r-th smallest is a lower bound with error P(B < r) and the s-th smallest an upper bound with
    error P(B >= s) (David and Nagaraja, Order Statistics, section 7.1). A bound is None where n
    is too small for it.

    Args:
        values: At least one.
        share: Which quantile, in (0, 1).
        alpha: Error probability of each bound.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    count = len(ordered)
    # P(B <= r - 1) <= alpha for the lower bound; P(B >= s) <= alpha for the upper one.
    below = int(binom.ppf(alpha, count, share))
    if binom.cdf(below, count, share) > alpha:
        below -= 1
    above = int(binom.isf(alpha, count, share)) + 1
    return Estimate(
        value=float(np.quantile(ordered, share)),
        lower=float(ordered[below]) if below >= 0 else None,
        upper=float(ordered[above - 1]) if above <= count else None,
    )


def median_interval(values: Sequence[float], alpha: float) -> Estimate:
    """`quantile_interval` of the median."""
    return quantile_interval(values, 0.5, alpha)


def mean_interval(values: NDArray[np.float64], low: float, high: float, alpha: float) -> Estimate:
    """Bounds of the mean of values that lie in [low, high].

    The empirical Bernstein bound of Maurer and Pontil (COLT 2009, theorem 4): with sample
    variance V of n values, |mean - true mean| <= sqrt(2 V ln(2/alpha) / n)
    + 7 (high - low) ln(2/alpha) / (3 (n - 1)), each side with error alpha.

    Args:
        values: At least two; anything outside [low, high] is clipped.
        low: Smallest possible value.
        high: Largest possible value.
        alpha: Error probability of each bound.
    """
    clipped = np.clip(np.asarray(values, dtype=np.float64), low, high)
    count = len(clipped)
    mean = float(clipped.mean())
    if count < 2:
        return Estimate(value=mean)
    logarithm = math.log(2 / alpha)
    radius = math.sqrt(2 * float(clipped.var(ddof=1)) * logarithm / count)
    radius += 7 * (high - low) * logarithm / (3 * (count - 1))
    return Estimate(value=mean, lower=max(low, mean - radius), upper=min(high, mean + radius))
