"""Where the windows of convolutions and pools lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from optimizers.trainable.node import Node


@dataclass(frozen=True, slots=True)
class Windows:
    """One window a result, over the axes after the first two.

    Attributes:
        kernel: Its length along each axis.
        strides: From one window to the next, at least 1.
        dilations: From one element of a window to the next, at least 1.
        before: Elements added before the first, along each axis.
        after: Elements added after the last.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def symmetric(self) -> bool:
        """Whether as much is added before as after."""
        return self.before == self.after


def windows(node: Node, sizes: Sequence[int], kernel: Sequence[int]) -> Windows:
    """What `pads` or `auto_pad` of a node mean for an input.

    Args:
        node: A convolution or pool.
        sizes: Of the input, without its first two axes.
        kernel: One length for each of these.
    """
    ones = [1] * len(kernel)
    strides = node.integers("strides", ones)
    dilations = node.integers("dilations", ones)
    mode = node.text("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        totals = [
            max(0, (-(-size // stride) - 1) * stride + dilation * (length - 1) + 1 - size)
            for size, length, stride, dilation in zip(
                sizes, kernel, strides, dilations, strict=True
            )
        ]
        smaller = [total // 2 for total in totals]
        larger = [total - half for total, half in zip(totals, smaller, strict=True)]
        before, after = (smaller, larger) if mode == "SAME_UPPER" else (larger, smaller)
    else:
        pads = [] if mode == "VALID" else node.integers("pads")
        pads = pads or [0] * (2 * len(kernel))
        before, after = pads[: len(kernel)], pads[len(kernel) :]
    return Windows(tuple(kernel), tuple(strides), tuple(dilations), tuple(before), tuple(after))


def pad(x: Tensor, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Tensor:
    """Add elements along the last axes; negative numbers take elements away."""
    amounts = [
        amount for pair in zip(reversed(before), reversed(after), strict=True) for amount in pair
    ]
    return functional.pad(x, amounts, value=value) if any(amounts) else x
