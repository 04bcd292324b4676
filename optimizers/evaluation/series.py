"""Two things timed in turn, so that drift hits both alike.

A unit is four windows, original - variant - variant - original, each a burst of runs; a unit in
which others used the machine is void. Bounds come from the units by order statistics, at looks
fixed beforehand, between which alpha is divided: stopping early cannot flatter anybody.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from optimizers.contract.evaluation import Estimate
from optimizers.evaluation.bounds import median_interval
from optimizers.evaluation.progress import Share, unheard
from optimizers.evaluation.quiet import Quiet
from optimizers.pausing import working_time

LOOKS: Final = (16, 32, 64, 128)
"""Looks at what decides a verdict."""

_LOOK_WINDOWS: Final = 4


class Unstable(Exception):
    """No quiet or stable measurement was had in the time allowed; the text says what was seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How finely is timed.

    Attributes:
        window_s: Length of one window.
        precise: Half width of the ratio's interval, relative to the ratio, at which measuring
            stops.
        unstable: Half width above which the result counts as unstable after the last look.
        same_runs: Whether both sides run as often in a window as the faster of them can; else each
            fills it for itself, so that what is very slow takes no longer than the other.
    """

    window_s: float = 0.05
    precise: float = 0.025
    unstable: float = 0.10
    same_runs: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Under which terms one quantity is measured.

    Attributes:
        alpha: Error probability of each bound, all looks together.
        deadline: By `pausing.working_time`.
        quiet: Judge of disturbances.
        timing: How finely.
        decides: Whether the goal names what is measured; what is only told is looked at once,
            however wide its interval.
        is_clear: Whether bounds of the ratio settle all that the goal asks of it; then a look at
            an interval that is not unstable is the last one.
        share: Takes the share of the largest number of units that is done, in [0, 1].
        looks: Numbers of units after which the interval is looked at, and at no other.
        keeps_unfinished: Whether what was had until the deadline counts as well, however wide its
            interval; then alpha is divided by one look more.
    """

    alpha: float
    deadline: float
    quiet: Quiet
    timing: Timing = field(default_factory=Timing)
    decides: bool = True
    is_clear: Callable[[Estimate], bool] = lambda ratio: False
    share: Share = unheard
    looks: tuple[int, ...] = LOOKS
    keeps_unfinished: bool = False

    @property
    def look_s(self) -> float:
        """For how long to look at the machine before measuring on it."""
        return _LOOK_WINDOWS * self.timing.window_s

    @property
    def alpha_of_a_look(self) -> float:
        """What the bounds of one look may spend."""
        return self.alpha / (len(self.looks) + self.keeps_unfinished)


@dataclass(slots=True)
class Unit:
    """Per-run seconds, rate and processor seconds of one side in one unit."""

    seconds: list[float] = field(default_factory=list)
    items: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0

    @property
    def median(self) -> float:
        """Median seconds of a run."""
        return float(np.median(self.seconds))

    @property
    def p99(self) -> float:
        """Seconds that 99 of 100 runs take at most."""
        return float(np.quantile(self.seconds, 0.99))

    @property
    def rate(self) -> float:
        """Items a second."""
        return self.items / self.wall_s

    @property
    def cost(self) -> float:
        """Processor seconds for 1000 items."""
        return 1000 * self.cpu_s / self.items


Pair = tuple[Unit, Unit]
"""The original's and the variant's half of one unit."""

Quantity = Callable[[Unit], float]

Window = Callable[[Unit], None]
"""Runs one window and adds what it saw to a unit."""


@dataclass(slots=True)
class Series:
    """All valid units in order, and how many were void."""

    units: list[Pair] = field(default_factory=list)
    void: int = 0

    def ratios(self, quantity: Quantity) -> list[float]:
        """The variant's quantity divided by the original's, unit by unit."""
        return [quantity(variant) / quantity(original) for original, variant in self.units]


def wait_until_quiet(terms: Terms) -> None:
    """Do nothing until others leave the machine alone.

    Raises:
        Unstable: They did not in the time allowed.
    """
    if not terms.quiet.wait(terms.look_s, terms.deadline):
        raise Unstable("others used the machine whenever it was looked at")


def measure(original: Window, variant: Window, quantity: Quantity, terms: Terms) -> Series:
    """Alternate both windows until the ratio of `quantity` is known well enough at a look.

    Raises:
        Unstable: The deadline passed before that, or the interval is too wide to mean anything
            after the last look; neither where `terms.keeps_unfinished` and there is a unit.
    """
    series = Series()
    most = terms.looks[-1]
    width = float("inf")
    while len(series.units) < most:
        if working_time() > terms.deadline:
            if terms.keeps_unfinished and series.units:
                return series
            raise Unstable(
                f"only {len(series.units)} quiet measurements were had in time ({series.void} were "
                "void because others used the machine), or their spread was too large"
            )
        began = time.monotonic()
        unit = _unit(original, variant, terms.quiet)
        took_s = time.monotonic() - began
        if unit is None:
            series.void += 1
            terms.quiet.wait(terms.look_s, terms.deadline)
        else:
            series.units.append(unit)
        terms.share(len(series.units) / most)
        if unit is not None and len(series.units) in terms.looks:
            ratio = median_interval(series.ratios(quantity), terms.alpha_of_a_look)
            width = _half_width(ratio)
            clear = width <= terms.timing.unstable and terms.is_clear(ratio)
            if width <= terms.timing.precise or clear or not terms.decides:
                return series
        terms.quiet.give_way(took_s, terms.deadline)
    if width <= terms.timing.unstable or terms.keeps_unfinished:
        return series
    raise Unstable(
        f"after {most} quiet measurements the ratio is known to {width:.0%} only, "
        f"{terms.timing.unstable:.0%} is the most that is of use"
    )


def _unit(original: Window, variant: Window, quiet: Quiet) -> Pair | None:
    """One unit, or None when others disturbed it."""
    one, other = Unit(), Unit()
    quiet.start()
    for window, unit in ((original, one), (variant, other), (variant, other), (original, one)):
        window(unit)
    return (one, other) if quiet.was_quiet() else None


def _half_width(interval: Estimate) -> float:
    """Relative to the value; infinite where a bound is missing."""
    if interval.lower is None or interval.upper is None:
        return float("inf")
    return (interval.upper - interval.lower) / 2 / interval.value
