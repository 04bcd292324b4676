"""What both models hold in memory, as figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from optimizers.contract.evaluation import Figure
from optimizers.contract.goal import FigureName
from optimizers.evaluation.bounds import median_interval
from optimizers.evaluation.footprint import Footprint

FEWEST_REPEATS: Final = 3

PEAK: Final = "at the peak"
"""The condition of the largest memory at any time; requirements are of what is held."""

_MOST_REPEATS: Final = 32


def repeats_for(alpha: float) -> int:
    """How many measurements bound a median by their extremes; beyond the most there is no bound.

    All of n values lie on one side of the median with probability 1/2^n.
    """
    if alpha <= 0:
        return _MOST_REPEATS
    return min(_MOST_REPEATS, max(FEWEST_REPEATS, math.ceil(-math.log2(alpha))))


def memory_figures(
    original: Sequence[Footprint], variant: Sequence[Footprint], alpha: float
) -> tuple[Figure, Figure]:
    """Memory of both, from repeated measurements taken in turn: held after running, at the peak.

    Args:
        original: Its measurements.
        variant: As many of the variant.
        alpha: Error probability of each bound.
    """
    held = _figure(
        [one.total_bytes for one in original],
        [one.total_bytes for one in variant],
        alpha,
        "proportional set size of a fresh process after running",
    )
    peak = _figure(
        [one.peak_bytes for one in original],
        [one.peak_bytes for one in variant],
        alpha,
        "largest resident set of a fresh process while it opened and ran the model",
    )
    return held, replace(peak, condition=PEAK)


def _figure(original: Sequence[int], variant: Sequence[int], alpha: float, what: str) -> Figure:
    pairs = list(zip(original, variant, strict=True))
    return Figure(
        name=FigureName.MEMORY,
        unit="B",
        samples=len(variant),
        value=median_interval(variant, alpha),
        original=median_interval(original, alpha),
        difference=median_interval([after - before for before, after in pairs], alpha),
        ratio=median_interval([after / max(1, before) for before, after in pairs], alpha),
        method=f"{what}, median of repeats, bounded by order statistics",
    )


def describe_footprints(original: Sequence[Footprint], variant: Sequence[Footprint]) -> str:
    """Anonymous, file-backed and peak memory of both, as one sentence."""

    def text(footprints: Sequence[Footprint]) -> str:
        parts = (
            f"{np.median([getattr(one, name) for one in footprints]) / 2**20:.1f} MiB {word}"
            for name, word in (
                ("anonymous_bytes", "anonymous"),
                ("file_bytes", "file-backed"),
                ("peak_bytes", "at the peak"),
            )
        )
        return ", ".join(parts)

    return f"{text(variant)}; original {text(original)}"
