"""Which weights are the smallest, by layer, over all layers, or among neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Weights = dict[str, NDArray[Any]]
"""Names and values of constant weights."""

Mask = NDArray[np.bool_]
"""True where a weight stays."""


def keep_largest(value: NDArray[Any], count: int) -> Mask:
    """True at the `count` largest sizes; the earlier of two equal ones goes first."""
    order = np.argsort(np.abs(value).reshape(-1), kind="stable")
    mask = np.ones(value.size, bool)
    mask[order[: value.size - count]] = False
    return mask.reshape(value.shape)


def keep_largest_of_all(
    weights: Weights, ratio: float, norm: Literal["l1", "l2"]
) -> dict[str, Mask]:
    """True at the sizes |w| / n that are largest over all layers together, n a layer's norm."""
    sizes = {name: np.abs(value) / layer_norm(value, norm) for name, value in weights.items()}
    every = np.concatenate([one.reshape(-1) for one in sizes.values()])
    mask = keep_largest(every, len(every) - int(ratio * len(every)))
    ends = np.cumsum([one.size for one in sizes.values()])
    parts = np.split(mask, ends[:-1])
    return {
        name: part.reshape(weights[name].shape) for name, part in zip(sizes, parts, strict=True)
    }


def layer_norm(value: NDArray[Any], norm: Literal["l1", "l2"]) -> float:
    """A layer's mean |w| (l1) or root mean square (l2), 1 for a layer of zeros.

    Without it, layers that sum over many inputs, whose weights are small, would lose most.
    """
    sizes = np.abs(value.astype(np.float64))
    found = sizes.mean() if norm == "l1" else np.sqrt((sizes**2).mean())
    return float(found) or 1.0


def keep_pattern(value: NDArray[Any], axes: Sequence[int], kept: int, block: int) -> Mask:
    """True at the `kept` largest sizes of every `block` neighbours along the axes summed over.

    Args:
        value: A weight whose last of `axes` has a multiple of `block` places.
        axes: What is summed over, the one along which neighbours lie last.
        kept: N of N:M.
        block: M of N:M.
    """
    moved = np.moveaxis(np.abs(value), axes, range(-len(axes), 0))
    blocks = moved.reshape(-1, block)
    order = np.argsort(blocks, axis=1, kind="stable")
    mask = np.ones(blocks.shape, bool)
    np.put_along_axis(mask, order[:, : block - kept], False, axis=1)
    return np.moveaxis(mask.reshape(moved.shape), range(-len(axes), 0), axes)
