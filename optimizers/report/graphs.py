"""What a model file is made of: operators, stored numbers, multiplications, bytes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Final

import onnx

from optimizers.contract.onnx_file import read_onnx_file
from optimizers.macs import count_macs

_COUNTED: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_PRODUCTS: Final = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphSummary:
    """One model file.

    Attributes:
        operators: Operator → how many nodes, the most frequent first.
        numbers: How many are stored in initializers; packed ones count once for every byte.
        macs: Multiply-accumulates of one item in floating-point products.
        uncounted: Products that `macs` leaves out: operator → how many nodes.
        size_bytes: Of all its files.
    """

    operators: dict[str, int]
    numbers: int
    macs: int
    uncounted: dict[str, int]
    size_bytes: int


def summarize(model: Path) -> GraphSummary:
    """Look at a model file; weights in files of their own are not read."""
    loaded = onnx.load(str(model), load_external_data=False)
    operators = Counter(node.op_type for node in loaded.graph.node)
    return GraphSummary(
        operators=dict(sorted(operators.items(), key=lambda one: (-one[1], one[0]))),
        numbers=sum(prod(tensor.dims) for tensor in loaded.graph.initializer),
        macs=count_macs(loaded),
        uncounted={
            name: count
            for name, count in sorted(operators.items())
            if name not in _COUNTED and any(product in name for product in _PRODUCTS)
        },
        size_bytes=read_onnx_file(model).size_bytes,
    )
