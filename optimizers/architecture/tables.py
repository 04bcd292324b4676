"""Which whole numbers a model takes, as far as the tables tell that it looks them up in."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import onnx

_SAME_NUMBERS: Final = frozenset(
    {"Cast", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand"}
)
_SAME_ROWS: Final = frozenset({"Cast", "Identity", "DequantizeLinear"})


def rows_looked_up(model: Path) -> dict[str, int]:
    """Input name → rows of the constant table that its numbers choose from, the fewest of several.

    An input is followed through operators that leave its numbers as they are, to a Gather along the
    first axis, and the table through those that leave its rows. Inputs that no table tells of are
    not named; weights in files beside the model are not read.
    """
    graph = onnx.load(str(model), load_external_data=False).graph
    tables = _tables(graph)
    numbers = {given.name: given.name for given in graph.input if given.name not in tables}
    found: dict[str, int] = {}
    for node in graph.node:
        origin = numbers.get(node.input[0]) if node.input else None
        if node.op_type in _SAME_NUMBERS and origin is not None:
            numbers[node.output[0]] = origin
        if node.op_type not in ("Gather", "GatherBlockQuantized") or _axis(node) != 0:
            continue
        rows, origin = tables.get(node.input[0]), numbers.get(node.input[1])
        if rows and origin is not None:
            found[origin] = min(rows, found.get(origin, rows))
    return found


def _tables(graph: onnx.GraphProto) -> dict[str, int]:
    """Name → length of the first axis of every constant."""
    tables = {tensor.name: tensor.dims[0] for tensor in graph.initializer if tensor.dims}
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value" and attribute.t.dims:
                    tables[node.output[0]] = attribute.t.dims[0]
        elif node.op_type in _SAME_ROWS and node.input[0] in tables:
            tables[node.output[0]] = tables[node.input[0]]
    return tables


def _axis(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
