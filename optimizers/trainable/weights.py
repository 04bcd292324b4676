"""Which stored tensors are weights: chosen by the operators that read them, and as what.

Not every float tensor is one: the scale of an attention, an epsilon or a mean of pixels is part
of what the network computes, and training it would change that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import onnx
from onnx import TensorProto

Role = Literal["weight", "bias", "scale", "slope", "table", "statistic"]
"""Of a stored tensor. `statistic`: running mean or variance of a batch normalisation, which follows
the data and has no gradient; all others are parameters."""

FLOATS: Final = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)

_ROLES: Final[Mapping[str, Mapping[int, Role]]] = {
    "Conv": {1: "weight", 2: "bias"},
    "ConvTranspose": {1: "weight", 2: "bias"},
    "Gemm": {0: "weight", 1: "weight", 2: "bias"},
    "MatMul": {0: "weight", 1: "weight"},
    "BatchNormalization": {1: "scale", 2: "bias", 3: "statistic", 4: "statistic"},
    "GroupNormalization": {1: "scale", 2: "bias"},
    "InstanceNormalization": {1: "scale", 2: "bias"},
    "LayerNormalization": {1: "scale", 2: "bias"},
    "RMSNormalization": {1: "scale"},
    "PRelu": {1: "slope"},
    "Gather": {0: "table"},
}
_VECTORS: Final[Mapping[str, Role]] = {"Add": "bias", "Mul": "scale"}
_PASSING: Final = (
    "Cast",
    "DequantizeLinear",
    "Flatten",
    "Identity",
    "QuantizeLinear",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
)


@dataclass(frozen=True, slots=True)
class Read:
    """A stored tensor, read in a role.

    Attributes:
        name: Of the tensor.
        node: Number of the node that reads it first, in the graph's order.
        position: Of its input there.
        role: What it is to the node that computes with it, perhaps a few nodes on.
    """

    name: str
    node: int
    position: int
    role: Role


def find_reads(graph: onnx.GraphProto) -> list[Read]:
    """Every read of a stored float tensor as a weight, in the graph's order."""
    return list(_Finder(graph).reads())


def roles(graph: onnx.GraphProto) -> dict[str, Role]:
    """The role of every weight by its name; of several roles, the first."""
    found: dict[str, Role] = {}
    for read in find_reads(graph):
        found.setdefault(read.name, read.role)
    return found


class _Finder:
    def __init__(self, graph: onnx.GraphProto) -> None:
        self._nodes = list(graph.node)
        self._shapes = {
            one.name: tuple(one.dims) for one in graph.initializer if one.data_type in FLOATS
        }
        self._makers = {
            output: number for number, node in enumerate(self._nodes) for output in node.output
        }
        self._learnt: set[str] = set()
        """Tensors that depend on a weight and on what the network is given."""

    def reads(self) -> Iterator[Read]:
        for number, node in enumerate(self._nodes):
            found = []
            for position in range(len(node.input)):
                role = self._role(node, position)
                read = role and self._trace(number, position, role)
                if read:
                    found.append(read)
            if found or not self._learnt.isdisjoint(node.input):
                self._learnt.update(node.output)
            yield from found

    def _role(self, node: onnx.NodeProto, position: int) -> Role | None:
        if node.op_type in _VECTORS and len(node.input) == 2:
            return self._vector_role(node, position)
        role = _ROLES.get(node.op_type, {}).get(position)
        if node.op_type == "Gather" and any(a.name == "axis" and a.i for a in node.attribute):
            return None
        return role

    def _vector_role(self, node: onnx.NodeProto, position: int) -> Role | None:
        """A bias added to, or a scale on, something that a layer before it computed."""
        source = self._source(node.input[position])
        shape = self._shapes.get(source)
        other = node.input[1 - position]
        if shape is None or other not in self._learnt or self._source(other) in self._shapes:
            return None
        long = [length for length in shape if length > 1]
        if len(long) == 1 or (shape == (1,) and self._gives_one(other)):
            return _VECTORS[node.op_type]
        return None

    def _gives_one(self, name: str) -> bool:
        """Whether a tensor is the product with a weight that has one column."""
        maker = self._makers.get(name)
        if maker is None or self._nodes[maker].op_type != "MatMul":
            return False
        return self._shapes.get(self._source(self._nodes[maker].input[1]), ())[-1:] == (1,)

    def _source(self, name: str) -> str:
        """What a tensor is another form of."""
        while (maker := self._makers.get(name)) is not None:
            if self._nodes[maker].op_type not in _PASSING:
                break
            name = self._nodes[maker].input[0]
        return name

    def _trace(self, number: int, position: int, role: Role) -> Read | None:
        name = self._nodes[number].input[position]
        while (maker := self._makers.get(name)) is not None:
            if self._nodes[maker].op_type not in _PASSING:
                return None
            number, position = maker, 0
            name = self._nodes[maker].input[0]
        return Read(name, number, position, role) if name in self._shapes else None
