"""Operators that move places about: which element ends up where."""

from __future__ import annotations

import numpy as np

from optimizers.pruning.flow.channelwise import along
from optimizers.pruning.flow.elements import Labels
from optimizers.pruning.flow.use import Axes, Refused, Use


def transpose(use: Use) -> list[Axes]:
    """Transpose: output axis i is input axis perm[i]."""
    order = use.integers("perm") or list(range(use.rank()))[::-1]
    return [tuple(use.take(0, axis) for axis in order)]


def concatenation(use: Use) -> list[Axes]:
    """Concat: the parts' elements one after the other; the other axes are tied."""
    rank = use.rank()
    axis = use.integer("axis", 1) % rank
    parts = [_known(use, index, axis) for index in range(len(use.node.input))]
    joined = list(along(use, {axis}))
    for index in range(1, len(parts)):
        for other in set(range(rank)) - {axis}:
            joined[other] = use.tie(joined[other], use.take(index, other))
    joined[axis] = _joined(use, parts)
    return [tuple(joined)]


def _known(use: Use, index: int, axis: int) -> Labels | int | None:
    """Elements of a part; its length where it has none."""
    labels = use.take(index, axis)
    return use.shape(index)[axis] if labels is None else labels


def _joined(use: Use, parts: list[Labels | int | None]) -> Labels | None:
    labelled = [part for part in parts if isinstance(part, np.ndarray)]
    if not labelled:
        return None
    if any(part is None for part in parts):
        for part in labelled:
            use.freeze(part, "joins them with a part whose length is known only at run time")
        return None
    return np.concatenate([_elements(use, part) for part in parts if part is not None])


def _elements(use: Use, part: Labels | int) -> Labels:
    if not isinstance(part, int):
        return part
    labels = use.flow.elements.fresh(part)
    use.freeze(labels, "gets them from elsewhere")
    return labels


def split(use: Use) -> list[Axes]:
    """Split: every output has its part of the elements."""
    axis = use.integer("axis", 0) % use.rank()
    sizes, labels = use.integers("split", 1), use.take(0, axis)
    others, count = along(use, {axis}), len(use.node.output)
    if labels is None:
        return [others] * count
    if sizes is None:
        size = -(-len(labels) // count)
        sizes = [min(size, len(labels) - start * size) for start in range(count)]
    parts = np.split(labels, np.cumsum(sizes)[:-1])
    use.repair(*parts)
    return [(*others[:axis], part, *others[axis + 1 :]) for part in parts]


def squeeze(use: Use) -> list[Axes]:
    """Squeeze: axes of length 1 go."""
    listed, rank = use.integers("axes", 1), use.rank()
    if listed is None:
        raise Refused("drops axes that it does not name")
    gone = {axis % rank for axis in listed}
    return [tuple(use.take(0, axis) for axis in range(rank) if axis not in gone)]


def unsqueeze(use: Use) -> list[Axes]:
    """Unsqueeze: axes of length 1 come in."""
    listed = use.integers("axes", 1) or []
    rank = use.rank() + len(listed)
    new = {axis % rank for axis in listed}
    old = iter(along(use, set()))
    return [tuple(None if axis in new else next(old) for axis in range(rank))]


def slicing(use: Use) -> list[Axes]:
    """Slice: an axis passes when it is not cut."""
    listed = use.integers("axes", 3)
    if listed is None:
        raise Refused("cuts axes that it does not name")
    return [along(use, {axis % use.rank() for axis in listed})]


def gather(use: Use) -> list[Axes]:
    """Gather: places along one axis are chosen by number; the other axes pass."""
    rank = use.rank()
    axis, chosen = use.integer("axis", 0) % rank, use.rank(1)
    passing = along(use, {axis})
    return [(*passing[:axis], *[None] * chosen, *passing[axis + 1 :])]
