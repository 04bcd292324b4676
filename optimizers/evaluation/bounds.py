"""The statistics behind every verdict: one-sided bounds that hold for any distribution.

Each function takes `alpha`, the probability with which one bound may be wrong. Where a function
returns a lower and an upper bound, each alone is wrong with probability at most `alpha`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import special

from optimizers.contract.evaluation import Estimate

Numbers = NDArray[np.float64]

_LARGEST_BET: Final = 0.9
_HALVINGS: Final = 40


def gate_alpha(confidence: float, use: int) -> float:
    """What the `use`-th look at the same gate data may spend: (1 - confidence) / 2^use.

    The sum over all uses stays below 1 - confidence, so that rebuilding until it passes does
    not work (a union bound over an unlimited number of attempts). It is 0 from about the
    thousandth use on; then nothing can be proved any more.
    """
    return math.ldexp(1 - confidence, -use)


def per_bound_alpha(alpha: float, bounds: int) -> float:
    """Bonferroni: with `alpha / bounds` each, all bounds hold together."""
    return alpha / max(1, bounds)


def clopper_pearson(successes: int, trials: int, alpha: float) -> Estimate:
    """Bounds of a share from independent trials.

    The exact interval of Clopper and Pearson (Biometrika 26, 1934): with x successes of n,
    lower = Beta(alpha; x, n - x + 1) and upper = Beta(1 - alpha; x + 1, n - x) quantiles.

    Args:
        successes: In [0, trials].
        trials: At least 1.
        alpha: Error probability of each bound.
    """
    failures = trials - successes
    lower = special.betaincinv(successes, failures + 1, alpha) if successes else 0.0
    upper = special.betainccinv(successes + 1, failures, alpha) if failures else 1.0
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


def quantile_interval(values: Sequence[float] | Numbers, share: float, alpha: float) -> Estimate:
    """Distribution-free bounds of a quantile from order statistics.

    With n independent values, the number B below the true quantile is Binomial(n, share), so the
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
    places = np.arange(count)
    # Place k of the ordered values, counted from 0, has error P(B <= k) as a lower bound and
    # P(B > k) as an upper one.
    as_lower = np.flatnonzero((special.bdtr(places, count, share) <= alpha) & (alpha > 0))
    as_upper = np.flatnonzero((special.bdtrc(places, count, share) <= alpha) & (alpha > 0))
    return Estimate(
        value=float(np.quantile(ordered, share)),
        lower=float(ordered[as_lower[-1]]) if as_lower.size else None,
        upper=float(ordered[as_upper[0]]) if as_upper.size else None,
    )


def median_interval(values: Sequence[float], alpha: float) -> Estimate:
    """`quantile_interval` of the median."""
    return quantile_interval(values, 0.5, alpha)


def mean_interval(
    values: Sequence[float] | Numbers, low: float, high: float, alpha: float
) -> Estimate:
    """Bounds of the mean of values that lie in [low, high], by betting.

    The hedged capital interval of Waudby-Smith and Ramdas (Estimating means of bounded random
    variables by betting, JRSSB 86, 2024): somebody who bets on the next value at the odds of mean
    m multiplies his stake by 1 + bet (x - m) each time; if m is the mean, he ever owns 1 / alpha
    with probability at most alpha (Ville's inequality). So every m at which he does is excluded.
    Bets are the predictable plug-in ones for a fixed number of values, each at most 0.9 / m.

    Args:
        values: At least one, independent; anything outside [low, high] is clipped. They may be
            sorted by class or otherwise: the bets are made in the order of `shuffled`.
        low: Smallest possible value.
        high: Largest possible value.
        alpha: Error probability of each bound.
    """
    shares = _shares(values, low, high)
    mean = float(shares.mean())
    lower = min(mean, _excluded_below(shares, alpha))
    upper = max(mean, 1 - _excluded_below(1 - shares, alpha))
    width = high - low
    return Estimate(value=low + width * mean, lower=low + width * lower, upper=low + width * upper)


def mean_is_at_least(
    values: Sequence[float] | Numbers, low: float, high: float, limit: float, alpha: float
) -> bool:
    """Whether the lower bound of `mean_interval` reaches `limit`, without looking for it."""
    share = (limit - low) / (high - low)
    shares = _shares(values, low, high)
    return share <= 0 or _is_excluded(shares, _bets(shares, alpha), share, alpha)


def shuffled(values: Numbers) -> Numbers:
    """The values in random order, the same for the same values.

    The coin is tossed anew for each set of values: one order for all of them might always suit, or
    never suit, files that are sorted in the same way.
    """
    seed = int.from_bytes(hashlib.blake2b(values.tobytes(), digest_size=16).digest())
    order: Numbers = np.random.default_rng(seed).permutation(values)
    return order


def _shares(values: Sequence[float] | Numbers, low: float, high: float) -> Numbers:
    clipped = np.clip(np.asarray(values, dtype=np.float64), low, high)
    return shuffled((clipped - low) / (high - low))


def _excluded_below(shares: Numbers, alpha: float) -> float:
    """The largest mean that is excluded as too small; capital falls as the mean rises."""
    bets = _bets(shares, alpha)
    excluded, possible = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (excluded + possible) / 2
        if _is_excluded(shares, bets, middle, alpha):
            excluded = middle
        else:
            possible = middle
    return excluded


def _is_excluded(shares: Numbers, bets: Numbers, mean: float, alpha: float) -> bool:
    if alpha <= 0:
        return False
    capital = np.cumsum(np.log1p(np.minimum(bets, _LARGEST_BET / mean) * (shares - mean)))
    return bool(capital.max() >= -math.log(alpha))


def _bets(shares: Numbers, alpha: float) -> Numbers:
    """sqrt(2 ln(2 / alpha) / (n V)), V the variance of the values before, none counted as 1/4."""
    if alpha <= 0:
        return np.zeros_like(shares)
    count = len(shares)
    seen = np.arange(1, count + 1)
    means = (0.5 + np.cumsum(shares)) / (seen + 1)
    variances = (0.25 + np.cumsum(np.square(shares - means))) / (seen + 1)
    before = np.concatenate([[0.25], variances[:-1]])
    bets: Numbers = np.sqrt(2 * math.log(2 / alpha) / (count * before))
    return bets
