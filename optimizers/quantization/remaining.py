"""What of a file with narrow weights is still in floating point, and who reads it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Final

import onnx

from optimizers.contract.onnx_file import read_onnx_file
from optimizers.saving import size_bytes

NARROW: Final = ("MatMulNBits", "GatherBlockQuantized")
"""Operators with narrow weights; the floats that they read are scales of these."""

_NAMED: Final = 3
_FLOATS: Final = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)


def remaining_floats(model: Path) -> str:
    """One sentence: their share of the model's bytes, and the operators that read most of them.

    External weights count, and none is read.

    Raises:
        InvalidModel: The file refers to one that is missing.
    """
    graph = onnx.load(str(model), load_external_data=False).graph
    readers: dict[str, str] = {}
    for node in graph.node:
        for name in node.input:
            if node.op_type in NARROW or name not in readers:
                readers[name] = node.op_type
    by_reader: Counter[str] = Counter()
    for tensor in graph.initializer:
        reader = readers.get(tensor.name, "nobody")
        if tensor.data_type in _FLOATS and reader not in NARROW:
            by_reader[reader] += size_bytes(tensor)
    size, floats = read_onnx_file(model).size_bytes, by_reader.total()
    if not floats:
        return f"of the file's {size} bytes none is a float weight"
    where = ", ".join(f"{reader} {count}" for reader, count in by_reader.most_common(_NAMED))
    return (
        f"of the file's {size} bytes {floats} ({floats / size:.0%}) are still weights in floating "
        f"point, read by {where}"
    )
