"""Operators that work on every channel by itself: normalisation, pooling, reduction, softmax."""

from __future__ import annotations

from typing import Final

from optimizers.pruning.flow.use import Axes, Refused, Use

_SOFTMAX_OF_ONE_AXIS: Final = 13
"""The first operator set in which Softmax sums over one axis only."""


def normalization(use: Use) -> list[Axes]:
    """BatchNormalization and InstanceNormalization: a constant [C] for every parameter."""
    channels = use.take(0, 1)
    for index in range(1, len(use.node.input)):
        use.tie(channels, use.take(index, 0))
    return [(use.take(0, 0), channels, *[None] * (use.rank() - 2))]


def pooling(use: Use) -> list[Axes]:
    """Poolings of x [items, C, ...] over what comes after the channels."""
    return [(use.take(0, 0), use.take(0, 1), *[None] * (use.rank() - 2))]


def along(use: Use, axes: set[int]) -> Axes:
    """All axes pass but these, which the node needs whole."""
    return tuple(None if axis in axes else use.take(0, axis) for axis in range(use.rank()))


def softmax(use: Use) -> list[Axes]:
    """Softmax and LogSoftmax need the axis that they sum over, or all from it on in old models."""
    if use.flow.opset < _SOFTMAX_OF_ONE_AXIS:
        first = use.integer("axis", 1) % use.rank()
        return [along(use, set(range(first, use.rank())))]
    return [along(use, {use.integer("axis", -1) % use.rank()})]


def layer_normalization(use: Use) -> list[Axes]:
    """Mean and variance over all axes from one on: without some channels they are others."""
    first = use.integer("axis", -1) % use.rank()
    return [along(use, set(range(first, use.rank())))]


def reduction(use: Use) -> list[Axes]:
    """ReduceMean and its like over axes that are known."""
    listed = use.integers("axes", 1)
    rank = use.rank()
    if listed is None and use.integer("noop_with_empty_axes", 0):
        raise Refused("reduces no axis")
    reduced = {axis % rank for axis in listed} if listed is not None else set(range(rank))
    left = along(use, reduced)
    if use.integer("keepdims", 1):
        return [left]
    return [tuple(labels for axis, labels in enumerate(left) if axis not in reduced)]


def padding(use: Use) -> list[Axes]:
    """Pad: an axis passes when nothing is added to it."""
    pads, rank = use.integers("pads", 1), use.rank()
    if pads is None or use.has(3):
        raise Refused("pads axes that are named elsewhere")
    return [along(use, {axis for axis in range(rank) if pads[axis] or pads[axis + rank]})]


def resizing(use: Use) -> list[Axes]:
    """Resize by constant scales: an axis passes when its scale is 1."""
    scales = use.constant(2)
    if scales is None or len(scales) != use.rank():
        raise Refused("computes its sizes")
    return [along(use, {axis for axis in range(use.rank()) if scales[axis] != 1})]
