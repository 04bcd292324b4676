"""Tensors that say how long other tensors' axes are: what exporters compute shapes with.

A length read from a tensor by Shape shrinks by itself when channels go; a literal one does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from optimizers.pruning.flow.use import Length, Use

Lengths = Sequence[Length]


def follow_lengths(use: Use) -> Lengths | None:
    """The lengths that a node gives; None if it gives something else."""
    handler = _HANDLERS.get(use.node.op_type)
    lengths = handler(use) if handler is not None else None
    if lengths is not None:
        use.take_lengths()
    return lengths


def _shape(use: Use) -> Lengths | None:
    sizes, other = (
        shapes.get(use.node.input[0], ()) for shapes in (use.flow.shapes, use.flow.other_shapes)
    )
    if not sizes or len(other) != len(sizes) or None in sizes:
        return None
    found = [
        Length(size=size, labels=use.take(0, axis), literal=False, fixed=size == other[axis])
        for axis, size in enumerate(sizes)
        if size is not None
    ]
    start, end = use.integer("start", 0), use.integer("end", len(found))
    return found[start:end]


def _same(use: Use) -> Lengths | None:
    return use.lengths(0)


def _chosen(use: Use) -> Lengths | None:
    lengths, chosen = use.lengths(0), use.constant(1)
    if lengths is None or chosen is None:
        return None
    return [lengths[int(place)] for place in chosen.reshape(-1)]


def _part(use: Use) -> Lengths | None:
    lengths = use.lengths(0)
    ends = [use.constant(index) for index in range(1, len(use.node.input))]
    if lengths is None or len(ends) < 2 or any(end is None or end.size != 1 for end in ends):
        return None
    start, end, _, step = [*(int(one.reshape(-1)[0]) for one in ends if one is not None), 0, 1][:4]
    return lengths[start:end] if step == 1 else None


def _joined(use: Use) -> Lengths | None:
    parts = [use.lengths(index) for index in range(len(use.node.input))]
    if any(part is None for part in parts):
        return None
    return [one for part in parts if part is not None for one in part]


_HANDLERS: Final[dict[str, Callable[[Use], Lengths | None]]] = {
    "Shape": _shape,
    "Cast": _same,
    "Identity": _same,
    "Unsqueeze": _same,
    "Squeeze": _same,
    "Reshape": _same,
    "Gather": _chosen,
    "Slice": _part,
    "Concat": _joined,
}
