"""Operators that sum over channels: what they sum over goes on the one side, rows on the other."""

from __future__ import annotations

from optimizers.pruning.flow.broadcast import broadcast
from optimizers.pruning.flow.elements import Labels
from optimizers.pruning.flow.use import Axes, Refused, Use


def convolution(use: Use) -> list[Axes]:
    """Conv: x [items, C, ...] with weight [O, C / group, ...] and bias [O]."""
    channels, rows = use.take(0, 1), use.take(1, 0)
    group, width = use.integer("group", 1), use.shape(1)[1]
    if group == 1:
        use.tie(channels, use.take(1, 1))
    elif width == 1:
        _depthwise(use, channels, rows, group)
    else:
        _grouped(use, channels, rows, group)
    if use.has(2):
        use.tie(rows, use.take(2, 0))
    use.layer((0, 1, 1), rows)
    return [_image(use, rows)]


def _depthwise(use: Use, channels: Labels | None, rows: Labels | None, group: int) -> None:
    """Every channel has rows of its own and goes with them."""
    if channels is None or rows is None:
        use.tie(channels, rows)
        return
    use.tie(rows, channels.repeat(len(rows) // group))
    use.repair(channels)


def _grouped(use: Use, channels: Labels | None, rows: Labels | None, group: int) -> None:
    """Every group loses the same places, so that all stay equally wide."""
    columns = use.take(1, 1)
    for labels in (channels, rows):
        if labels is not None:
            parts = labels.reshape(group, -1)
            for part in parts[1:]:
                use.tie(parts[0], part)
    use.tie(None if channels is None else channels.reshape(group, -1)[0], columns)


def transposed_convolution(use: Use) -> list[Axes]:
    """ConvTranspose: x [items, C, ...] with weight [C, O, ...] and bias [O]."""
    if use.integer("group", 1) != 1:
        raise Refused("is a transposed convolution in groups")
    use.tie(use.take(0, 1), use.take(1, 0))
    rows = use.take(1, 1)
    if use.has(2):
        use.tie(rows, use.take(2, 0))
    use.layer((0, 1, 0), rows)
    return [_image(use, rows)]


def _image(use: Use, channels: Labels | None) -> Axes:
    return (use.take(0, 0), channels, *[None] * (use.rank() - 2))


def gemm(use: Use) -> list[Axes]:
    """Gemm: A [items, K] times B [K, N], or [N, K] transposed, plus C."""
    if use.integer("transA", 0):
        raise Refused("transposes what it reads")
    inner = 1 if use.integer("transB", 0) else 0
    use.tie(use.take(0, 1), use.take(1, inner))
    columns = use.take(1, 1 - inner)
    result: Axes = (use.take(0, 0), columns)
    use.layer((0, 1, inner), columns)
    if use.has(2):
        shape = (None, use.shape(1)[1 - inner])
        result = broadcast(use, [(result, shape), use.operand(2)])
    return [result]


def product(use: Use) -> list[Axes]:
    """MatMul: A [..., M, K] times B [..., K, N]; the axes before are broadcast."""
    if min(use.rank(0), use.rank(1)) < 2:
        raise Refused("multiplies by a vector")
    use.tie(use.take(0, -1), use.take(1, -2))
    columns = use.take(1, -1)
    use.layer((0, use.rank(0) - 1, use.rank(1) - 2), columns)
    outer = [use.operand(index, drop=2) for index in (0, 1)]
    return [(*broadcast(use, outer), use.take(0, -2), columns)]
