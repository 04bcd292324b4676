"""What both models hold in memory, as a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from optimizers.contract.evaluation import Figure
from optimizers.contract.goal import FigureName
from optimizers.evaluation.bounds import median_interval
from optimizers.evaluation.footprint import Footprint

FEWEST_REPEATS: Final = 3

_MOST_REPEATS: Final = 32


def repeats_for(alpha: float) -> int:
    """How many measurements bound a median by their extremes; beyond the most there is no bound.

    All of n values lie on one side of the median with probability 1/2^n.
    """
    if alpha <= 0:
        return _MOST_REPEATS
    return min(_MOST_REPEATS, max(FEWEST_REPEATS, math.ceil(-math.log2(alpha))))


def memory_figure(
    original: Sequence[Footprint], variant: Sequence[Footprint], alpha: float
) -> Figure:
    """Memory of both, from repeated measurements taken in turn.

    Args:
        original: Its measurements.
        variant: As many of the variant.
        alpha: Error probability of each bound.
    """
    ratios = [b.total_bytes / max(1, a.total_bytes) for a, b in zip(original, variant, strict=True)]
    changes = [b.total_bytes - a.total_bytes for a, b in zip(original, variant, strict=True)]
    return Figure(
        name=FigureName.MEMORY,
        unit="B",
        samples=len(variant),
        value=median_interval([footprint.total_bytes for footprint in variant], alpha),
        original=median_interval([footprint.total_bytes for footprint in original], alpha),
        difference=median_interval(changes, alpha),
        ratio=median_interval(ratios, alpha),
        method="proportional set size of a fresh process after running, median of repeats, "
        "bounded by order statistics",
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
