"""One node's view of the channels that reach it, and what it may say about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from optimizers.pruning.flow.elements import Elements, Labels

Axes: TypeAlias = tuple[Labels | None, ...]
"""Of every axis of a tensor: its elements, or None where nothing could be taken out."""

Shape: TypeAlias = tuple[int | None, ...]
"""None stands for a length that is known only at run time."""


class Refused(Exception):
    """It cannot be proved what a node does with its channels; the text goes on "which ..."."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A convolution or product with a constant weight.

    Attributes:
        node: Its name.
        weight: The constant.
        reads: The tensor that it sums over, the axis of it, and that of the weight.
        gives: Elements along its output channels, before later ties; empty where it has only one.
    """

    node: str
    weight: str
    reads: tuple[str, int, int]
    gives: Labels


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """A number in the graph that says how many channels there are.

    Attributes:
        node: Index of the node in the graph.
        axes: Group of a convolution: the axis it equals. Split: one axis a part. Reshape: one
            entry per output axis, None where its number stays.
    """

    node: int
    axes: Axes


@dataclass(frozen=True, slots=True, kw_only=True)
class Length:
    """One number of a tensor that says how long axes are.

    Attributes:
        size: The number.
        labels: Elements along the axis that it is the length of; None where it stays.
        literal: Whether it is written in the model, and not read from a tensor at run time.
        fixed: Whether it is the same in every run.
    """

    size: int
    labels: Labels | None
    literal: bool
    fixed: bool


@dataclass(slots=True)
class Flow:
    """What is known of a graph's channels.

    Attributes:
        constants: All constant tensors by name.
        shapes: Of every tensor whose rank is known.
        other_shapes: The same with other numbers for lengths known only at run time.
        readers: The nodes that read a tensor.
        read: Names that a node, a graph inside a node or a caller reads.
        opset: The version of the standard operators.
        elements: The places, and which belong together.
        axes: Of every tensor seen so far.
        lengths: Of tensors that say how long others are.
        layers: Convolutions and products, in order.
        repairs: Numbers to set anew after channels were taken out.
    """

    constants: dict[str, NDArray[Any]]
    shapes: dict[str, Shape]
    other_shapes: dict[str, Shape]
    readers: dict[str, list[onnx.NodeProto]]
    read: frozenset[str]
    opset: int
    elements: Elements = field(default_factory=Elements)
    axes: dict[str, Axes] = field(default_factory=dict)
    lengths: dict[str, Sequence[Length]] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    repairs: list[Repair] = field(default_factory=list)

    def freeze(self, name: str, reason: str) -> None:
        """Keep every axis of a tensor, and those that it tells the length of."""
        counted = [length.labels for length in self.lengths.get(name, ())]
        for labels in (*self.axes.get(name, ()), *counted):
            if labels is not None:
                self.elements.freeze(labels, reason)


class Use:
    """What a node takes. An axis that it does not `take` is frozen afterwards."""

    def __init__(self, flow: Flow, index: int, node: onnx.NodeProto) -> None:
        self.flow = flow
        self.index = index
        self.node = node
        self._attributes = {
            one.name: onnx.helper.get_attribute_value(one) for one in node.attribute
        }
        self._taken: set[tuple[int, int]] = set()
        self._lengths_taken = False

    def has(self, index: int) -> bool:
        """Whether an optional input is given."""
        return index < len(self.node.input) and bool(self.node.input[index])

    def rank(self, index: int = 0) -> int:
        """How many axes an input has.

        Raises:
            Refused: It is not known.
        """
        return len(self.shape(index))

    def shape(self, index: int = 0) -> Shape:
        """Lengths of an input's axes.

        Raises:
            Refused: Not even their number is known.
        """
        shape = self.flow.shapes.get(self.node.input[index])
        if shape is None:
            raise Refused("has an input of unknown rank")
        return shape

    def take(self, index: int, axis: int) -> Labels | None:
        """The elements along an input's axis, which may be counted from the end."""
        axis %= self.rank(index)
        self._taken.add((index, axis))
        axes = self.flow.axes.get(self.node.input[index])
        return axes[axis] if axes is not None else None

    def tie(self, one: Labels | None, other: Labels | None) -> Labels | None:
        """Two axes that have to lose the same places; frozen if one of them can lose none."""
        if one is not None and other is not None:
            self.flow.elements.tie(one, other)
            return one
        for labels in (one, other):
            if labels is not None:
                self.freeze(labels, "reads something beside them that has to keep its width")
        return None

    def freeze(self, labels: Labels, reason: str) -> None:
        """Keep an axis; the reason goes on "which ..."."""
        text = f"they reach {self.node.name} ({self.node.op_type}), which {reason}"
        self.flow.elements.freeze(labels, text)

    def freeze_rest(self, reason: str = "needs all of them") -> None:
        """Keep every axis of every input that was not taken."""
        for index, name in enumerate(self.node.input):
            for axis, labels in enumerate(self.flow.axes.get(name, ())):
                if labels is not None and (index, axis) not in self._taken:
                    self.freeze(labels, reason)
            for length in self.flow.lengths.get(name, ()):
                if length.labels is not None and not self._lengths_taken:
                    self.freeze(length.labels, "computes with how many there are")

    def refuse(self, reason: str) -> None:
        """Keep every axis of every input, taken or not."""
        self._taken.clear()
        self._lengths_taken = False
        self.freeze_rest(reason)

    def constant(self, index: int) -> NDArray[Any] | None:
        """The value of an input that is constant."""
        return self.flow.constants.get(self.node.input[index]) if self.has(index) else None

    def lengths(self, index: int) -> Sequence[Length] | None:
        """What an input says of lengths of axes; None if it does not."""
        known = self.flow.lengths.get(self.node.input[index])
        value = self.constant(index)
        if known is not None or value is None:
            return known
        if value.ndim > 1 or not np.issubdtype(value.dtype, np.integer):
            return None
        numbers = value.reshape(-1).tolist()
        return [Length(size=one, labels=None, literal=True, fixed=True) for one in numbers]

    def take_lengths(self) -> None:
        """Tell that it is known what the node does with the lengths it reads."""
        self._lengths_taken = True

    def integers(self, name: str, index: int | None = None) -> list[int] | None:
        """A list of numbers: an attribute in old operator sets, an input in new ones.

        Raises:
            Refused: It is computed at run time.
        """
        if name in self._attributes:
            return [int(one) for one in np.atleast_1d(self._attributes[name])]
        if index is None or not self.has(index):
            return None
        value = self.constant(index)
        if value is None:
            raise Refused(f"computes its {name} at run time")
        return [int(one) for one in value.reshape(-1)]

    def integer(self, name: str, default: int) -> int:
        """An attribute that is one number."""
        return int(self._attributes.get(name, default))

    def repair(self, *axes: Labels | None) -> None:
        """The node holds numbers that say how long these axes are."""
        if any(labels is not None for labels in axes):
            self.flow.repairs.append(Repair(node=self.index, axes=axes))

    def layer(self, reads: tuple[int, int, int], gives: Labels | None) -> None:
        """Tell of a convolution or product whose weight, its second input, is constant.

        Args:
            reads: Index of the input summed over, its axis, and the weight's axis.
            gives: Elements along its output channels; None where it has only one.
        """
        weight = self.node.input[1]
        if weight not in self.flow.constants:
            return
        if gives is None:
            gives = np.array([], np.int64)
        source = (self.node.input[reads[0]], reads[1], reads[2])
        self.flow.layers.append(
            Layer(node=self.node.name, weight=weight, reads=source, gives=gives)
        )

    def operand(self, index: int, drop: int = 0) -> tuple[Axes, Shape]:
        """An input's elements and lengths, all axes taken but so many at the end."""
        shape = self.shape(index)
        shape = shape[: len(shape) - drop]
        return tuple(self.take(index, axis) for axis in range(len(shape))), shape
