"""What a reader wants to know of figures: how many times better, how far from the original."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from benchmarks.gains.records import Gained, Quantity
from optimizers.contract.evaluation import Estimate, Figure
from optimizers.contract.goal import FigureName
from optimizers.evaluation.memory import PEAK

_COMPARED = {
    FigureName.LATENCY_P50: Quantity.FASTER,
    FigureName.SIZE: Quantity.SMALLER,
    FigureName.MEMORY: Quantity.HELD,
}


def gained(figures: Iterable[Figure]) -> dict[Quantity, Gained]:
    """What figures say of a variant, each beside its original from the same run.

    Of several figures of one name the first counts, which is the one under usual conditions.
    """
    found: dict[Quantity, Gained] = {}
    for figure in figures:
        for quantity, one in _read(figure):
            found.setdefault(quantity, one)
    return found


def _read(figure: Figure) -> Iterator[tuple[Quantity, Gained]]:
    if figure.ratio is not None and figure.ratio.value and figure.name in _COMPARED:
        is_peak = figure.name is FigureName.MEMORY and figure.condition == PEAK
        yield Quantity.PEAK if is_peak else _COMPARED[figure.name], _times(figure.ratio)
    if figure.name is FigureName.SIZE:
        megabytes = figure.value.value / 1e6
        yield Quantity.MEGABYTES, Gained(value=megabytes, bound=megabytes)  # they are counted
    if figure.name is FigureName.ACCURACY and figure.difference is not None:
        yield Quantity.ACCURACY, _least(figure.difference, 100)
    if figure.name is FigureName.AGREEMENT:
        yield Quantity.AGREEMENT, _least(figure.value, 100)
    if figure.name is FigureName.COSINE:
        yield Quantity.COSINE, _least(figure.value, 1)


def _times(ratio: Estimate) -> Gained:
    """How many times less; the bound is of the largest ratio."""
    return Gained(value=1 / ratio.value, bound=1 / ratio.upper if ratio.upper else None)


def _least(estimate: Estimate, scale: float) -> Gained:
    lower = estimate.lower
    return Gained(value=scale * estimate.value, bound=None if lower is None else scale * lower)
