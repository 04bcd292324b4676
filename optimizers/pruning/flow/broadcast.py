"""Operators that combine tensors place by place, with numpy's broadcasting."""

from __future__ import annotations

from collections.abc import Sequence

from optimizers.pruning.flow.elements import Labels
from optimizers.pruning.flow.use import Axes, Shape, Use


def broadcast(use: Use, operands: Sequence[tuple[Axes, Shape]]) -> Axes:
    """Tie the axes of operands, aligned at the end; an axis of length 1 fits any other."""
    rank = max(len(shape) for _, shape in operands)
    return tuple(_aligned(use, operands, from_end) for from_end in range(rank, 0, -1))


def _aligned(use: Use, operands: Sequence[tuple[Axes, Shape]], from_end: int) -> Labels | None:
    meeting = [
        axes[-from_end]
        for axes, shape in operands
        if from_end <= len(shape) and shape[-from_end] != 1
    ]
    if not meeting:
        return None
    result = meeting[0]
    for labels in meeting[1:]:
        result = use.tie(result, labels)
    return result


def elementwise(use: Use) -> list[Axes]:
    """Any operator that gives at a place what it makes of its inputs at that place."""
    present = [index for index in range(len(use.node.input)) if use.has(index)]
    return [broadcast(use, [use.operand(index) for index in present])]
