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
from optimizers.pruning.flow.use import Axes, Refused, Use

_STAND_INS: Final = (1_000_003, 1_000_033, 1_000_037, 1_000_039)
"""Primes for lengths known only at run time: no product of other lengths has them as a factor."""

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
    wanted = use.integers("shape", 1)
    if wanted is None or (use.integer("allowzero", 0) and 0 in wanted):
        raise Refused("has no known shape")
    sizes = _sizes(use)
    target = [sizes[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    left = math.prod(size for size in target if size != -1)
    if -1 in target:
        if left == 0 or math.prod(sizes) % left:
            raise Refused("mixes axes in a way that depends on lengths known only at run time")
        target[target.index(-1)] = math.prod(sizes) // left
    moved = _moved(use, sizes, target)
    use.repair(*[labels if size > 0 else None for labels, size in zip(moved, wanted, strict=True)])
    return [moved]


def _sizes(use: Use) -> list[int]:
    stand_ins = iter(_STAND_INS)
    try:
        return [next(stand_ins) if size is None else size for size in use.shape()]
    except StopIteration as error:
        raise Refused("has too many axes of unknown length") from error


def _moved(use: Use, sizes: Sequence[int], target: Sequence[int]) -> Axes:
    result: list[Labels | None] = [None] * len(target)
    for old, new in _segments(sizes, target):
        labelled = [(axis, labels) for axis in old if (labels := use.take(0, axis)) is not None]
        if not labelled:
            continue
        if len(labelled) > 1 or math.prod(sizes[axis] for axis in old) >= _STAND_INS[0]:
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
    packed = len(wide) == 3 and sizes[wide[0]] == _PACKED
    carrier = wide[1] if packed else wide[0]
    slabs = np.moveaxis(merged.reshape(sizes), carrier, -1).reshape(-1, sizes[carrier])
    for slab in slabs[1:]:
        use.tie(slabs[0], slab)
    return carrier, slabs[0]
