"""What the runtime's fusion leaves of a quantised model: conversions, and products in floats.

Only a product that fuses with the DequantizeLinear before it and the QuantizeLinear after it
computes in integers; every other one computes in floating point and pays for the conversions.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from optimizers.contract.host import Host
from optimizers.contract.runtime import SessionSpec
from optimizers.evaluation.lint import optimized_graph

_CONVERSIONS: Final = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
_FLOATING: Final = ("Conv", "FusedConv", "MatMul", "FusedMatMul", "Gemm", "FusedGemm")
_INTEGER: Final = (
    *("QLinearConv", "ConvInteger", "QLinearMatMul", "QGemm", "MatMulInteger"),
    *("MatMulIntegerToFloat", "DynamicQuantizeMatMul"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftovers:
    """Nodes of the graph that the runtime runs.

    Attributes:
        integer: Convolutions and products that compute in integers.
        floating: Those that compute in floating point.
        conversions: Conversions that were not fused into any.
    """

    integer: int
    floating: int
    conversions: int

    def __str__(self) -> str:
        return (
            f"after fusion {self.integer} products compute in integers, {self.floating} in "
            f"floating point, {self.conversions} conversions are left"
        )


def leftovers(model: Path, spec: SessionSpec) -> Leftovers:
    """Count what is left once the runtime has optimised the model as `spec` says."""
    counts = Counter(node.op_type for node in optimized_graph(model, spec).node)
    return Leftovers(
        integer=sum(counts[name] for name in _INTEGER),
        floating=sum(counts[name] for name in _FLOATING),
        conversions=sum(counts[name] for name in _CONVERSIONS),
    )


def warning(scheme: str, host: Host) -> str:
    """What is to be said of a scheme on this processor; empty where it suits it."""
    if scheme == "s8s8" and not host.is_arm:
        return "S8S8 is slower than floating point on this processor; U8S8 suits it"
    return ""
