"""Which nodes of an open model compute where, as onnxruntime tells."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import onnxruntime

from optimizers.contract.documents import shown_key

RECORD_PLACEMENT: Final = "session.record_ep_graph_assignment_info"
"""The entry of a session's configuration without which onnxruntime does not keep its answer."""

_STANDARD_DOMAINS: Final = ("", "ai.onnx")
_SHAPE_OPERATORS: Final = frozenset(
    {
        *("Constant", "ConstantOfShape", "Shape", "Size", "Range", "Cast", "Identity"),
        *("Concat", "Gather", "Slice", "Split", "Squeeze", "Unsqueeze", "Reshape", "Transpose"),
        *("Expand", "Tile", "ScatterElements", "ScatterND", "Where", "If", "Loop"),
        *("Abs", "Add", "Sub", "Mul", "Div", "Mod", "Neg", "Ceil", "Floor", "Max", "Min"),
        *("ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum"),
        *("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Not", "Or"),
    }
)
"""What onnxruntime leaves on the processor on purpose: it works out a few lengths faster there."""
_MOST_NAMED: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedNode:
    """One node and who computes it.

    Attributes:
        name: Its name in the model; often "".
        operator: For example `Conv`, with its domain when that is not ONNX's own.
        provider: For example `CUDAExecutionProvider`.
        is_light: Whether it may be work on shapes only, going by its operator.
    """

    name: str
    operator: str
    provider: str
    is_light: bool


def placed_nodes(session: onnxruntime.InferenceSession) -> list[PlacedNode]:
    """Every node that computes; `RECORD_PLACEMENT` must have been "1" when it was opened."""
    return [
        PlacedNode(
            name=node.name,
            operator=node.op_type if standard else f"{node.domain}.{node.op_type}",
            provider=subgraph.ep_name,
            is_light=standard and node.op_type in _SHAPE_OPERATORS,
        )
        for subgraph in session.get_provider_graph_assignment_info()
        for node in subgraph.get_nodes()
        for standard in [node.domain in _STANDARD_DOMAINS]
    ]


def misplaced(
    nodes: Iterable[PlacedNode], wanted: str, accepted: Iterable[str] = ()
) -> list[PlacedNode]:
    """The nodes that should have gone to `wanted`.

    Work on shapes may stay elsewhere, as long as anything at all is computed where it should be.

    Args:
        nodes: All nodes of a model.
        wanted: The execution provider asked for.
        accepted: Others that are as good for a node that `wanted` cannot compute.
    """
    nodes = list(nodes)
    away = [node for node in nodes if node.provider != wanted]
    if len(away) == len(nodes):
        return away
    accepted = frozenset(accepted)
    return [node for node in away if node.provider not in accepted and not node.is_light]


def named(nodes: list[PlacedNode]) -> str:
    """The first few of `nodes` as a text for people."""
    texts = [
        f"'{shown_key(node.name)}' ({shown_key(node.operator)})"
        if node.name
        else f"a {shown_key(node.operator)} without a name"
        for node in nodes[:_MOST_NAMED]
    ]
    rest = len(nodes) - len(texts)
    return ", ".join(texts) + (f" and {rest} more" if rest else "")
