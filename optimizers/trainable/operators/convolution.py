"""Convolutions over one, two or three axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from torch import Tensor
from torch.nn import functional

from optimizers.trainable.node import Inputs, Node
from optimizers.trainable.operators.windows import pad, windows
from optimizers.trainable.registry import operator

_CONVOLUTIONS: Final[dict[int, Callable[..., Tensor]]] = {
    1: functional.conv1d,
    2: functional.conv2d,
    3: functional.conv3d,
}
_TRANSPOSED: Final[dict[int, Callable[..., Tensor]]] = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


@operator("Conv")
def convolution(node: Node, inputs: Inputs) -> Tensor:
    """Cross-correlation of x [items, channels, ...] with kernels, plus a bias."""
    x, kernels = inputs[0], inputs[1]
    found = windows(node, x.shape[2:], kernels.shape[2:])
    padding = found.before
    if not found.symmetric:
        x, padding = pad(x, found.before, found.after), (0,) * len(padding)
    return _function(node, _CONVOLUTIONS, kernels)(
        x,
        kernels,
        inputs.optional(2),
        stride=found.strides,
        padding=padding,
        dilation=found.dilations,
        groups=node.integer("group", 1),
    )


@operator("ConvTranspose")
def transposed_convolution(node: Node, inputs: Inputs) -> Tensor:
    """The gradient of a convolution with respect to its input, plus a bias."""
    x, kernels = inputs[0], inputs[1]
    axes = kernels.ndim - 2
    found = windows(node, x.shape[2:], kernels.shape[2:])
    extra = node.integers("output_padding", [0] * axes)
    whole = _function(node, _TRANSPOSED, kernels)(
        x,
        kernels,
        None,
        stride=found.strides,
        dilation=found.dilations,
        groups=node.integer("group", 1),
    )
    before = found.before
    ends = [more - cut for more, cut in zip(extra, found.after, strict=True)]
    wanted = _wanted_sizes(node, x.shape[2:], found.strides)
    if wanted:
        sizes = [size + more for size, more in zip(whole.shape[2:], extra, strict=True)]
        before = _cut_before(node, sizes, wanted)
        ends = [
            want - size + cut
            for want, size, cut in zip(wanted, whole.shape[2:], before, strict=True)
        ]
    y = pad(whole, [-cut for cut in before], ends)
    bias = inputs.optional(2)
    return y if bias is None else y + bias.reshape(-1, *[1] * axes)


def _wanted_sizes(node: Node, sizes: Sequence[int], strides: Sequence[int]) -> list[int]:
    if node.has("output_shape"):
        return node.integers("output_shape")[-len(sizes) :]
    if node.text("auto_pad", "NOTSET").startswith("SAME"):
        return [size * stride for size, stride in zip(sizes, strides, strict=True)]
    return []


def _cut_before(node: Node, sizes: Sequence[int], wanted: Sequence[int]) -> tuple[int, ...]:
    """How much to take off at the start, so that with the rest at the end the sizes are right."""
    totals = [max(0, size - want) for size, want in zip(sizes, wanted, strict=True)]
    if node.text("auto_pad", "") == "SAME_UPPER":
        return tuple(total // 2 for total in totals)
    return tuple(total - total // 2 for total in totals)


def _function(
    node: Node, functions: dict[int, Callable[..., Tensor]], kernels: Tensor
) -> Callable[..., Tensor]:
    axes = kernels.ndim - 2
    if axes not in functions:
        raise node.refuse(f"a convolution over {axes} axes")
    return functions[axes]
