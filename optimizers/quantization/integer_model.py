"""Writes a model with int8 weights and activations from ranges that were measured before."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

from optimizers.contract.host import Host
from optimizers.contract.quantization import StaticInt8
from optimizers.quantization.floating_nodes import keep_floating
from optimizers.quantization.measured_ranges import METHODS
from optimizers.quantization.ranges import reduced_range
from optimizers.saving import is_large

OPERATORS: Final = ("Conv", "MatMul", "Gemm")
"""What is quantised."""

TOUCHED: Final = (*OPERATORS, "Relu", "Clip", "MaxPool", "Add", "Concat", "Reshape", "Flatten")
"""What is quantised, and what lies between."""

_TYPES: Final = {"u": QuantType.QUInt8, "s": QuantType.QInt8}

Scheme = Literal["u8s8", "u8u8", "s8s8"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrangement:
    """How numbers become integers.

    Attributes:
        scheme: Activation and weight types.
        per_channel: One weight scale per output channel.
        reduce_range: 7-bit weights.
        calibration: How the ranges were chosen.
    """

    scheme: Scheme
    per_channel: bool
    reduce_range: bool
    calibration: str


def arrangement(step: StaticInt8, host: Host) -> Arrangement:
    """What the step asks for, and where it leaves that open, what the processor wants."""
    scheme = step.scheme
    if scheme == "auto":
        scheme = "s8s8" if host.is_arm else "u8s8"
    return Arrangement(
        scheme=scheme,
        per_channel=step.per_channel,
        reduce_range=reduced_range(step.reduce_range, host) and scheme == "u8s8",
        calibration=step.calibration,
    )


def write_integers(
    prepared: Path, ranges: Path, target: Path, how: Arrangement, excluded: Sequence[str]
) -> Path:
    """Write the int8 model of `prepared` to `target`.

    Args:
        prepared: The floating-point model, as `prepare` left it.
        ranges: Of `prepared`, as `measure_ranges` wrote them.
        target: The file to write.
        how: Types and scales.
        excluded: Names of nodes in `prepared` that stay in floating point.
    """
    with _quiet_library():
        quantize_static(
            str(prepared),
            str(target),
            calibration_cache_path=str(ranges),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(TOUCHED),
            per_channel=how.per_channel,
            reduce_range=how.reduce_range,
            activation_type=_TYPES[how.scheme[0]],
            weight_type=_TYPES[how.scheme[2]],
            nodes_to_exclude=list(excluded),
            use_external_data_format=is_large(prepared),
            calibrate_method=METHODS[how.calibration],
            extra_options={"ActivationSymmetric": how.scheme == "s8s8"},
        )
    keep_floating(target)
    return target


@contextmanager
def _quiet_library() -> Iterator[None]:
    """The library warns on the root logger of what was done on purpose."""
    root = logging.getLogger()
    former = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(former)
