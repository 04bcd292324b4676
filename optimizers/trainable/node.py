"""What an operator's function gets: the node's attributes, and its inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import onnx
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor

from optimizers.contract.errors import NotSupported

DTYPES: Final[Mapping[int, torch.dtype]] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.UINT8: torch.uint8,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.BOOL: torch.bool,
}
"""The datatypes of ONNX that torch computes with."""


@dataclass(slots=True)
class Mode:
    """What all nodes of a graph share while it runs.

    Attributes:
        training: Whether batch normalisation uses the statistics of the batch.
        momentum: Weight of the batch in new running statistics, in [0, 1]; None: as the node says.
    """

    training: bool = False
    momentum: float | None = None


class Node:
    """One node of the graph, with typed access to its attributes."""

    def __init__(self, proto: onnx.NodeProto, name: str, opset: int, mode: Mode) -> None:
        self.name = name
        self.operator = str(proto.op_type)
        self.opset = opset
        self.mode = mode
        self.inputs = tuple(proto.input)
        self.outputs = tuple(proto.output)
        self._attributes = {
            one.name: onnx.helper.get_attribute_value(one) for one in proto.attribute
        }

    def has(self, name: str) -> bool:
        """Whether the attribute is written down."""
        return name in self._attributes

    def integer(self, name: str, default: int) -> int:
        """An attribute that is one integer."""
        return int(self._attributes.get(name, default))

    def integers(self, name: str, default: Sequence[int] = ()) -> list[int]:
        """An attribute that is a list of integers."""
        return [int(one) for one in self._attributes.get(name, default)]

    def number(self, name: str, default: float) -> float:
        """An attribute that is one number."""
        return float(self._attributes.get(name, default))

    def numbers(self, name: str) -> list[float]:
        """An attribute that is a list of numbers; empty where it is absent."""
        return [float(one) for one in self._attributes.get(name, ())]

    def text(self, name: str, default: str) -> str:
        """An attribute that is a string."""
        value = self._attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else str(value)

    def tensor(self, name: str) -> Tensor:
        """An attribute that is a tensor."""
        return to_tensor(self._attributes[name])

    def refuse(self, what: str) -> NotSupported:
        """The error that says that this form of the operator is not translated."""
        return NotSupported(f"{self.operator} '{self.name}': {what} cannot be trained here")


class Inputs:
    """The inputs of one call by their position; optional ones may be absent."""

    def __init__(self, values: Sequence[Tensor | None]) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, position: int) -> Tensor:
        value = self.optional(position)
        if value is None:
            raise NotSupported(f"input {position} of a node is absent and must be given")
        return value

    def __iter__(self) -> Iterator[Tensor]:
        return (value for value in self._values if value is not None)

    def optional(self, position: int) -> Tensor | None:
        """The input, or None where it is absent."""
        return self._values[position] if position < len(self._values) else None

    def integers(self, position: int) -> list[int]:
        """The numbers of an input such as a shape or axes."""
        return [int(one) for one in self[position].flatten().tolist()]


def to_tensor(proto: onnx.TensorProto) -> Tensor:
    """A copy that torch may change, of the same shape and datatype.

    Raises:
        NotSupported: Torch does not compute with this datatype.
    """
    if proto.data_type not in DTYPES:
        kind = onnx.TensorProto.DataType.Name(proto.data_type)
        raise NotSupported(f"tensor '{proto.name}' is of datatype {kind}, which cannot be trained")
    return torch.from_numpy(numpy_helper.to_array(proto).copy())
