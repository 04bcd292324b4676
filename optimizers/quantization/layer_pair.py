"""Two consecutive layers, seen channel by channel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two layers, and how their weights are laid out.

    Attributes:
        first: Weight of the first layer.
        bias: Its bias, one number a channel; empty where it has none.
        second: Weight of the second layer.
        first_is_transposed: Whether `first` is [inputs, outputs] instead of [outputs, ...].
        second_is_transposed: The same of `second`.
        channels: That go from one to the other.
        group: Of the second layer, where it is a convolution; 1 otherwise.
    """

    first: str
    bias: str
    second: str
    first_is_transposed: bool
    second_is_transposed: bool
    channels: int
    group: int

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of all that scaling changes."""
        return tuple(name for name in (self.first, self.bias, self.second) if name)

    def outputs_first(self, weights: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """A view of the first weight, [channels, values of one channel]."""
        weight = weights[self.first]
        return weight.T if self.first_is_transposed else weight.reshape(self.channels, -1)

    def inputs_by_group(self, weights: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """A view of the second weight, [groups, outputs, inputs, values] with values per input.

        Axes 0 and 2 together are the channels; flattened pictures have several values a channel.
        """
        weight = weights[self.second]
        if self.second_is_transposed:
            blocks = weight.reshape(self.channels, -1, weight.shape[1])
            return blocks.transpose(2, 0, 1)[np.newaxis]
        outputs = len(weight) // self.group
        return weight.reshape(self.group, outputs, self.channels // self.group, -1)
