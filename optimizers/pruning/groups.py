"""Channels that have to go together, gathered into groups of channels that are alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, gcd
from typing import Final

import numpy as np
from numpy.typing import NDArray

from optimizers.pruning.flow.elements import Labels
from optimizers.pruning.flow.use import Flow, Layer

_PART_OF: Final = "part of node "


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One axis of a constant that loses places when channels go.

    Attributes:
        constant: Its name.
        axis: Which axis.
        channels: Of every place the channel of the group that it belongs to; -1: of none.
    """

    constant: str
    axis: int
    channels: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Channels that take part in the same axes of the same constants.

    Attributes:
        layers: Convolutions and products that give them.
        roots: One element for every channel, ascending.
        width: Places that one channel takes in the output of the first layer: 1, or more where
            a channel is a whole attention head.
        members: All axes that lose places with a channel.
    """

    layers: tuple[Layer, ...]
    roots: Labels
    width: int
    members: tuple[Member, ...]

    @property
    def name(self) -> str:
        """The layers' names."""
        return "+".join(layer.node for layer in self.layers)

    @property
    def count(self) -> int:
        """How many channels there are."""
        return len(self.roots)

    def kept(self, ratio: float, round_to: int) -> int:
        """How many channels stay when this share goes.

        Args:
            ratio: In [0, 1].
            round_to: Places kept are the nearest multiple of it, the smaller of two, at least
                one multiple; a group with no more places than that stays whole. 0: any number.
        """
        step = round_to // gcd(round_to, self.width) if round_to else 1
        if self.count <= step:
            return self.count
        multiples = ceil(self.count * (1 - ratio) / step - 0.5)
        return min(self.count, max(1, multiples) * step)


def find_groups(flow: Flow) -> list[Group]:
    """All groups with at least two channels, in the order of their layers."""
    roots = flow.elements.all_roots()
    occurrences = _occurrences(flow, roots)
    alike: dict[frozenset[tuple[str, int, int]], list[int]] = defaultdict(list)
    for root, places in occurrences.items():
        if flow.elements.reason(root) is None:
            alike[frozenset((*key, count) for key, count in places.items())].append(root)
    groups = [_group(flow, roots, signature, found) for signature, found in alike.items()]
    order = [layer.node for layer in flow.layers]
    real = [group for group in groups if group.layers and group.count > 1]
    return sorted(real, key=lambda group: order.index(group.layers[0].node))


def kept_for_a_reason(flow: Flow) -> Iterator[tuple[str, str]]:
    """Layers whose output channels are all frozen, and why; one channel alone never goes."""
    for layer in flow.layers:
        if not len(layer.gives):
            continue
        reasons = [flow.elements.reason(element) for element in layer.gives.tolist()]
        if all(reasons):
            yield layer.node, str(reasons[0])


def _occurrences(flow: Flow, roots: Labels) -> dict[int, dict[tuple[str, int], int]]:
    found: dict[int, dict[tuple[str, int], int]] = defaultdict(dict)
    for key, labels in _axes(flow):
        values, counts = np.unique(roots[labels], return_counts=True)
        for root, count in zip(values.tolist(), counts.tolist(), strict=True):
            found[root][key] = count
    return found


def _axes(flow: Flow) -> Iterator[tuple[tuple[str, int], Labels]]:
    """Axes of constants, and the parts of every Split: none of these may lose all its places."""
    named = {name: flow.axes[name] for name in flow.constants}
    parts = {f"{_PART_OF}{repair.node}": repair.axes for repair in flow.repairs}
    for name, axes in {**named, **parts}.items():
        for axis, labels in enumerate(axes):
            if labels is not None:
                yield (name, axis), labels


def _group(
    flow: Flow, roots: Labels, signature: frozenset[tuple[str, int, int]], found: list[int]
) -> Group:
    mine = np.array(sorted(found), np.int64)
    layers = tuple(layer for layer in flow.layers if np.isin(roots[layer.gives], mine).any())
    width = int((roots[layers[0].gives] == mine[0]).sum()) if layers else 1
    members = tuple(
        Member(constant=name, axis=axis, channels=_channels(mine, roots[labels]))
        for name, axis, _ in sorted(signature)
        if name in flow.constants and (labels := flow.axes[name][axis]) is not None
    )
    return Group(layers=layers, roots=mine, width=width, members=members)


def _channels(mine: Labels, roots: Labels) -> NDArray[np.int64]:
    places = np.minimum(np.searchsorted(mine, roots), len(mine) - 1)
    return np.where(mine[places] == roots, places, -1)
