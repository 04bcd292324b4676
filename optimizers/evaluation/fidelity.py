"""How closely a variant's answers follow the original's, item by item."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from optimizers.calibration import Arrays, item_count, take
from optimizers.contract.errors import RunFailed
from optimizers.contract.evaluation import Estimate, Figure
from optimizers.contract.goal import FIGURES, FigureName
from optimizers.contract.runtime import Session
from optimizers.contract.signature import Signature
from optimizers.evaluation.bounds import clopper_pearson, mean_interval, quantile_interval
from optimizers.evaluation.clusters import Clusters
from optimizers.evaluation.progress import Share, unheard

LARGEST_SQNR_DB: Final = 200.0
"""Reported when there is no noise at all; more than float32 can tell apart."""

SQNR_QUANTILE: Final = 0.05
"""Of all items, the share whose answers may be noisier than the figure says."""

_BETTING: Final = "betting (Waudby-Smith and Ramdas 2024)"

Outputs = list[NDArray[Any]]
"""One array per output, first axis = items."""

Floats = NDArray[np.float64]
Claims = NDArray[np.bool_]
"""One per item."""


def answer(
    session: Session,
    items: Arrays,
    order: NDArray[np.int64] | None = None,
    batch: int = 1,
    share: Share = unheard,
) -> Outputs:
    """Answers to all items, `batch` at a time in the given order, put back in item order.

    Args:
        session: What answers. Without a batch dimension, each item's output becomes one flat row.
        items: Everything that is asked.
        order: Which item comes when; as they stand when left out.
        batch: Items in one run; 1 for a model without a batch dimension.
        share: Takes the share of all items that is answered, after each run.

    Raises:
        RunFailed: The runtime refused, or the outputs are not one row of one shape per item.
    """
    count = item_count(items)
    order = np.arange(count) if order is None else order
    parts = []
    for start in range(0, count, batch):
        outputs = session.run(take(items, order[start : start + batch]))
        if not session.signature.has_batch_dimension:
            outputs = [array.reshape(1, -1) for array in outputs]
        parts.append(outputs)
        share(min(1.0, (start + batch) / count))
    back = np.argsort(order)
    names = [spec.name for spec in session.signature.outputs]
    return [
        _joined(name, arrays, count)[back]
        for name, arrays in zip(names, zip(*parts, strict=True), strict=True)
    ]


def first_bad_number(
    signature: Signature, original: Outputs, variant: Outputs
) -> tuple[str, int] | None:
    """The first output and item with a NaN or infinity where the original has a number."""
    for spec, one, other in zip(signature.outputs, original, variant, strict=True):
        if not spec.is_floating:
            continue
        bad = (~np.isfinite(other) & np.isfinite(one)).reshape(len(one), -1).any(axis=1)
        if bad.any():
            return spec.name, int(np.argmax(bad))
    return None


def class_output(signature: Signature) -> int | None:
    """Which output holds scores of classes: the only floating one of rank 2, else None."""
    scores = [
        index
        for index, spec in enumerate(signature.outputs)
        if spec.is_floating
        and len(spec.shape) == 2
        and spec.shape[0] in (-1, 1)
        and spec.shape[1] != 1
    ]
    return scores[0] if len(scores) == 1 else None


def same_class(index: int, original: Outputs, variant: Outputs) -> Claims:
    """Per item, whether both give the same class the highest score."""
    one, other = (np.asarray(outputs[index].argmax(axis=1)) for outputs in (original, variant))
    same: Claims = one == other
    return same


def same_items(index: int, original: Outputs, variant: Outputs) -> Claims:
    """Per item, whether all of one output's whole numbers, booleans or texts are equal."""
    equal = np.asarray(original[index] == variant[index], dtype=np.bool_)
    same: Claims = np.logical_and.reduce(equal.reshape(len(equal), -1), axis=1)
    return same


def cosine(original: NDArray[Any], variant: NDArray[Any]) -> Floats:
    """Cosine similarity of each item's answers, x·y / (|x| |y|); 1 where both are zero.

    Elements that are infinite or NaN in the same way count as absent. An item where only one of
    the two has such an element gets -1.
    """
    one, other, incomparable = _comparable(original, variant)
    one, other = (rows / _scale(rows) for rows in (one, other))
    product = np.einsum("ij,ij->i", one, other)
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    both_zero = ~one.any(axis=1) & ~other.any(axis=1)
    similar = np.where(norms > 0, product / np.where(norms > 0, norms, 1.0), 0.0)
    similar = np.where(both_zero, 1.0, np.clip(similar, -1.0, 1.0))
    return np.where(incomparable, -1.0, similar)


def sqnr_db(original: NDArray[Any], variant: NDArray[Any]) -> Floats:
    """Signal to quantisation noise of each item: 10 log10(sum x^2 / sum (x - y)^2), in dB.

    Elements that are infinite or NaN in the same way add neither noise nor signal. An item where
    only one of the two has such an element gets -LARGEST_SQNR_DB.

    Source: definition of SQNR, for example Widrow and Kollár, Quantization Noise, CUP 2008.
    """
    one, other, incomparable = _comparable(original, variant)
    scale = np.maximum(_scale(one), _scale(other))
    one, other = one / scale, other / scale
    signal = np.square(one).sum(axis=1)
    noise = np.square(one - other).sum(axis=1)
    with np.errstate(divide="ignore"):
        decibels = 10 * np.log10(signal / np.where(noise > 0, noise, 1.0))
    decibels = np.where(noise > 0, decibels, LARGEST_SQNR_DB)
    decibels = np.where(incomparable, -LARGEST_SQNR_DB, decibels)
    return np.clip(decibels, -LARGEST_SQNR_DB, LARGEST_SQNR_DB)


def agreement_figure(
    same: Mapping[str, Claims], alpha: float, clusters: Clusters | None = None
) -> Figure:
    """The share of items with the same answer, of the output that comes off worst.

    Args:
        same: Output name → per item, whether its answer is the same; at least one output.
        alpha: Error probability of each bound.
        clusters: Which items belong together; None where each stands for itself.
    """
    if clusters is not None:
        by_cluster = {
            name: clusters.mean_interval(claims, 0.0, 1.0, alpha) for name, claims in same.items()
        }
        name, estimate = min(by_cluster.items(), key=lambda pair: _by_lower_bound(pair[1]))
        return Figure(
            name=FigureName.AGREEMENT,
            unit="",
            samples=len(clusters.sizes),
            of_items=len(clusters.places),
            value=estimate,
            method=f"mean {clusters.text}, {_BETTING}, output '{name}'",
            condition=_condition(name, len(same)),
        )
    name, worst = min(same.items(), key=lambda pair: int(pair[1].sum()))
    return Figure(
        name=FigureName.AGREEMENT,
        unit="",
        samples=len(worst),
        value=clopper_pearson(int(worst.sum()), len(worst), alpha),
        method=f"Clopper-Pearson, output '{name}'",
        condition=_condition(name, len(same)),
    )


def cosine_figure(
    signature: Signature,
    original: Outputs,
    served: Sequence[Outputs],
    alpha: float,
    clusters: Clusters | None = None,
) -> Figure | None:
    """Mean cosine of the output and arrangement that come off worst by the lower bound.

    None without a floating output that has more than one element an item: the cosine of single
    numbers tells only their sign.
    """
    interval = mean_interval if clusters is None else clusters.mean_interval
    counted = "over items" if clusters is None else clusters.text
    return _worst_figure(
        FigureName.COSINE,
        f"mean {counted}, {_BETTING}",
        _floating(signature, original, smallest=2),
        original,
        served,
        clusters,
        lambda one, other: interval(cosine(one, other), -1.0, 1.0, alpha),
    )


def sqnr_figure(
    signature: Signature,
    original: Outputs,
    served: Sequence[Outputs],
    alpha: float,
    clusters: Clusters | None = None,
) -> Figure | None:
    """The SQNR that 19 of 20 items reach, of the output and arrangement that come off worst.

    With clusters it is what all items of 19 of 20 clusters reach.

    None without a floating output.
    """
    interval = quantile_interval if clusters is None else clusters.quantile_interval
    counted = "over items" if clusters is None else f"of the smallest {clusters.text}"
    return _worst_figure(
        FigureName.SQNR,
        f"5th percentile {counted}, order statistics",
        _floating(signature, original, smallest=1),
        original,
        served,
        clusters,
        lambda one, other: interval(sqnr_db(one, other), SQNR_QUANTILE, alpha),
    )


def _joined(name: str, parts: Sequence[NDArray[Any]], count: int) -> NDArray[Any]:
    try:
        joined = np.concatenate(parts)
    except ValueError as error:
        raise RunFailed(f"output '{name}' changes its shape from item to item") from error
    if len(joined) != count:
        raise RunFailed(f"output '{name}' has {len(joined)} rows for {count} items")
    return joined


def _floating(signature: Signature, original: Outputs, smallest: int) -> dict[str, int]:
    """Name → place of the floating outputs with at least `smallest` elements an item."""
    return {
        spec.name: index
        for index, spec in enumerate(signature.outputs)
        if spec.is_floating and original[index][0].size >= smallest
    }


def _worst_figure(
    figure: FigureName,
    method: str,
    outputs: Mapping[str, int],
    original: Outputs,
    served: Sequence[Outputs],
    clusters: Clusters | None,
    estimate: Callable[[NDArray[Any], NDArray[Any]], Estimate],
) -> Figure | None:
    """The estimate of the output and arrangement that have the smallest lower bound.

    The smallest of several lower bounds is a lower bound of the smallest value: it can only be
    wrong if the bound of that very output is. None without an output.
    """
    if not outputs:
        return None
    found = [
        (name, estimate(original[index], answers[index]))
        for name, index in outputs.items()
        for answers in served
    ]
    name, worst = min(found, key=lambda pair: _by_lower_bound(pair[1]))
    return Figure(
        name=figure,
        unit=FIGURES[figure].unit,
        samples=len(original[0]) if clusters is None else len(clusters.sizes),
        of_items=0 if clusters is None else len(clusters.places),
        value=worst,
        method=f"{method}, output '{name}'",
        condition=_condition(name, len(outputs)),
    )


def _by_lower_bound(estimate: Estimate) -> tuple[float, float]:
    lower = -np.inf if estimate.lower is None else estimate.lower
    return lower, estimate.value


def _condition(name: str, outputs: int) -> str:
    return f"output '{name}'" if outputs > 1 else ""


def _comparable(original: NDArray[Any], variant: NDArray[Any]) -> tuple[Floats, Floats, Claims]:
    """One row of finite numbers per item, and per item whether some pair cannot be compared."""
    one, other = (array.reshape(len(array), -1).astype(np.float64) for array in (original, variant))
    unusual = ~np.isfinite(one) | ~np.isfinite(other)
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    incomparable: Claims = (unusual & ~same).any(axis=1)
    return np.where(unusual, 0.0, one), np.where(unusual, 0.0, other), incomparable


def _scale(rows: Floats) -> Floats:
    """What each row is divided by, so that squares of large numbers stay finite."""
    largest = np.max(np.abs(rows), axis=1, keepdims=True, initial=0.0)
    return np.where(largest > 0, largest, 1.0)
