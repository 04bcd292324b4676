"""How closely a variant's answers follow the original's, item by item."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from optimizers.calibration import Arrays, item_count, take
from optimizers.contract.evaluation import Figure
from optimizers.contract.goal import FigureName
from optimizers.contract.runtime import Session
from optimizers.contract.signature import Signature
from optimizers.evaluation.bounds import clopper_pearson, mean_interval, median_interval

LARGEST_SQNR_DB: Final = 200.0
"""Reported when there is no noise at all; more than float32 can tell apart."""

Outputs = list[NDArray[Any]]
"""One array per output, first axis = items."""


def answer(
    session: Session, items: Arrays, order: NDArray[np.int64] | None = None, batch: int = 1
) -> Outputs:
    """Answers to all items, `batch` at a time in the given order, put back in item order.

    Raises:
        RunFailed: The runtime refused.
    """
    count = item_count(items)
    order = np.arange(count) if order is None else order
    parts = [
        session.run(take(items, order[start : start + batch])) for start in range(0, count, batch)
    ]
    joined = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    back = np.argsort(order)
    return [array[back] for array in joined]


def first_bad_number(
    signature: Signature, original: Outputs, variant: Outputs
) -> tuple[str, int] | None:
    """The first output and item where only the variant gives NaN or infinity."""
    for spec, one, other in zip(signature.outputs, original, variant, strict=True):
        if not spec.is_floating:
            continue
        axes = tuple(range(1, other.ndim))
        bad = (~np.isfinite(other)).any(axis=axes) & np.isfinite(one).all(axis=axes)
        if bad.any():
            return spec.name, int(np.argmax(bad))
    return None


def class_output(signature: Signature) -> int | None:
    """Which output holds scores of classes: the only floating one of rank 2, else None."""
    scores = [
        index
        for index, spec in enumerate(signature.outputs)
        if spec.is_floating and len(spec.shape) == 2 and spec.shape[1] != 1
    ]
    return scores[0] if len(scores) == 1 else None


def same_class(index: int, original: Outputs, variant: Outputs) -> NDArray[np.bool_]:
    """Per item, whether both give the same class the highest score."""
    same: NDArray[np.bool_] = original[index].argmax(axis=1) == variant[index].argmax(axis=1)
    return same


def cosine(original: NDArray[Any], variant: NDArray[Any]) -> NDArray[np.float64]:
    """Cosine similarity of each item's answers, x·y / (|x| |y|); 1 where both are zero."""
    one, other = _rows(original), _rows(variant)
    product = np.einsum("ij,ij->i", one, other)
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    both_zero = ~one.any(axis=1) & ~other.any(axis=1)
    safe = np.where(norms > 0, norms, 1.0)
    return np.where(both_zero, 1.0, np.where(norms > 0, product / safe, 0.0))


def sqnr_db(original: NDArray[Any], variant: NDArray[Any]) -> NDArray[np.float64]:
    """Signal to quantisation noise of each item: 10 log10(sum x^2 / sum (x - y)^2), in dB."""
    one, other = _rows(original), _rows(variant)
    signal = np.square(one).sum(axis=1)
    noise = np.square(one - other).sum(axis=1)
    with np.errstate(divide="ignore"):
        decibels = 10 * np.log10(signal / np.where(noise > 0, noise, 1.0))
    decibels = np.where(noise > 0, decibels, LARGEST_SQNR_DB)
    return np.clip(decibels, -LARGEST_SQNR_DB, LARGEST_SQNR_DB)


def agreement_figure(same: NDArray[np.bool_], alpha: float) -> Figure:
    """The share of items with the same class."""
    return Figure(
        name=FigureName.AGREEMENT,
        unit="",
        samples=len(same),
        value=clopper_pearson(int(same.sum()), len(same), alpha),
        method="Clopper-Pearson",
    )


def similarity_figures(
    signature: Signature, original: Outputs, served: Sequence[Outputs], alpha: float
) -> tuple[Figure, ...]:
    """Cosine and SQNR of the output and arrangement that come off worst.

    Args:
        signature: The model's.
        original: The original's answers.
        served: The variant's, in each arrangement it will be served in.
        alpha: Error probability of each bound.
    """
    floating = [i for i, spec in enumerate(signature.outputs) if spec.is_floating]
    if not floating:
        return ()
    similar = [cosine(original[i], variant[i]) for i in floating for variant in served]
    decibels = [sqnr_db(original[i], variant[i]) for i in floating for variant in served]
    worst_cosine = min(similar, key=lambda values: float(values.mean()))
    worst_sqnr = min(decibels, key=lambda values: float(np.median(values)))
    return (
        Figure(
            name=FigureName.COSINE,
            unit="",
            samples=len(worst_cosine),
            value=mean_interval(worst_cosine, -1.0, 1.0, alpha),
            method="mean per item, empirical Bernstein (Maurer and Pontil 2009)",
        ),
        Figure(
            name=FigureName.SQNR,
            unit="dB",
            samples=len(worst_sqnr),
            value=median_interval(list(worst_sqnr), alpha),
            method="median per item, order statistics",
        ),
    )


def _rows(array: NDArray[Any]) -> NDArray[np.float64]:
    return array.reshape(len(array), -1).astype(np.float64)
