"""Reshape and Flatten: which axes are merged and split, and what that ties together.

Axes that are merged and axes that they are split into form segments with the same number of
places. Merging [C, H, W] makes every channel H W places; splitting D into [heads, D / heads] ties
the places of one head, so that heads go as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from optimizers.pruning.flow.elements import Labels
from optimizers.pruning.flow.use import Axes, Length, Refused, Use

_PACKED: Final = 3
"""Queries, keys and values in one product: [3, heads, width of a head]."""


def flatten(use: Use) -> list[Axes]:
    """Flatten: all axes from one on become one."""
    sizes = _sizes(use)
    axis = use.integer("axis", 1)
    axis += use.rank() if axis < 0 else 0
    return [_moved(use, sizes, [math.prod(sizes[:axis]), math.prod(sizes[axis:])])]


def reshape(use: Use) -> list[Axes]:
    """Reshape: literal lengths of axes that lose places are set anew afterwards."""
    wanted, sizes = use.lengths(1), _sizes(use)
    if wanted is None:
        raise Refused("computes its shape in a way that is not understood")
    if use.integer("allowzero", 0) and any(one.literal and one.size == 0 for one in wanted):
        raise Refused("makes an empty tensor")
    moved = _moved(use, sizes, _target(wanted, sizes))
    use.take_lengths()
    written = [
        _is_written(use, axis, *pair) for axis, pair in enumerate(zip(moved, wanted, strict=True))
    ]
    use.repair(*[labels if one else None for labels, one in zip(moved, written, strict=True)])
    return [moved]


def _is_written(use: Use, axis: int, labels: Labels | None, length: Length) -> bool:
    """Whether a length has to be set anew; tied if it follows by itself.

    It may be read from another tensor that stays as wide: a transformer that joins its heads to
    the width of what it was given.
    """
    if length.literal:
        if length.size == 0:  # stands for the input's axis at this index, which may be another
            use.tie(labels, use.take(0, axis))
        return length.size > 0
    if labels is not None and length.labels is not None:
        elements = use.flow.elements
        if np.array_equal(elements.roots(labels), elements.roots(length.labels)):
            return False
    if labels is not None and length.fixed:
        return True
    use.tie(labels, length.labels)
    return False


def _target(wanted: Sequence[Length], sizes: Sequence[int]) -> list[int]:
    """Lengths in numbers: a literal 0 stands for the input's, -1 for whatever is left."""
    target = [
        sizes[axis] if one.literal and one.size == 0 else one.size
        for axis, one in enumerate(wanted)
    ]
    if -1 in target:
        left = math.prod(size for size in target if size != -1)
        if left == 0 or math.prod(sizes) % left:
            raise Refused("mixes axes in a way that depends on lengths known only at run time")
        target[target.index(-1)] = math.prod(sizes) // left
    return target


def _sizes(use: Use) -> list[int]:
    sizes = [size for size in use.shape() if size is not None]
    if len(sizes) < use.rank():
        raise Refused("has an input of unknown size")
    return sizes


def _moved(use: Use, sizes: Sequence[int], target: Sequence[int]) -> Axes:
    result: list[Labels | None] = [None] * len(target)
    for old, new in _segments(sizes, target):
        labelled = [(axis, labels) for axis in old if (labels := use.take(0, axis)) is not None]
        if not labelled:
            continue
        if len(labelled) > 1:
            raise Refused("merges them with others")
        axis, labels = labelled[0]
        form = [len(labels) if one == axis else 1 for one in old]
        merged = np.broadcast_to(labels.reshape(form), [sizes[one] for one in old]).reshape(-1)
        carrier, carried = _divided(use, merged, [target[one] for one in new])
        result[new[carrier]] = carried
    return tuple(result)


def _segments(sizes: Sequence[int], target: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Shortest runs of old and new axes with the same number of places."""
    old, new = 0, 0
    while old < len(sizes) and new < len(target):
        first_old, first_new = old, new
        one, other = sizes[old], target[new]
        old, new = old + 1, new + 1
        while one != other:
            if one < other and old < len(sizes):
                one, old = one * sizes[old], old + 1
            elif one > other and new < len(target):
                other, new = other * target[new], new + 1
            else:
                raise Refused("mixes axes in a way that depends on lengths known at run time")
        yield list(range(first_old, old)), list(range(first_new, new))
    if math.prod(sizes[old:]) != 1 or math.prod(target[new:]) != 1:
        raise Refused("does not keep the number of places")


def _divided(use: Use, merged: Labels, sizes: list[int]) -> tuple[int, Labels]:
    """The axis that may lose places, and its elements: the others' places are tied together."""
    wide = [axis for axis, size in enumerate(sizes) if size > 1] or [0]
    roots = use.flow.elements.roots(merged)
    packed = len(wide) == 3 and sizes[wide[0]] == _PACKED
    usual = wide[1] if packed else wide[0]
    carrier = next((axis for axis in wide if _agree(_slabs(roots, sizes, axis))), usual)
    slabs = _slabs(merged, sizes, carrier)
    if not _agree(_slabs(roots, sizes, carrier)):
        for slab in slabs[1:]:
            use.tie(slabs[0], slab)
    return carrier, slabs[0]


def _slabs(labels: Labels, sizes: list[int], axis: int) -> Labels:
    """Labels [places of the other axes, places of this one]."""
    return np.moveaxis(labels.reshape(sizes), axis, -1).reshape(-1, sizes[axis])


def _agree(slabs: Labels) -> bool:
    return bool((slabs == slabs[0]).all())
