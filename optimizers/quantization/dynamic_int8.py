"""Dynamic int8: weights of matrix products in int8, activations scaled at run time.

y = x W becomes s_x s_W (q_x - z_x) q_W with q = round(v / s) + z; onnxruntime computes s_x and
z_x from the range of each run's x, so answers depend on everything in the batch. Tables of
embeddings have no activations: see `tables`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from onnxruntime.quantization import QuantType, quantize_dynamic

from optimizers.contract.quantization import DynamicInt8
from optimizers.graph import (
    check_excluded,
    count_operators,
    names_after_preparing,
    operator_names,
    prepare,
)
from optimizers.quantization.leftovers import leftovers
from optimizers.quantization.ranges import reduced_range, seven_bits
from optimizers.saving import is_large
from optimizers.step import StepContext, StepResult

_OPERATORS: Final = ("MatMul", "Gemm")
_GEMM_SUFFIX: Final = "_MatMul"


def apply(model: Path, step: DynamicInt8, context: StepContext) -> StepResult:
    """Quantise every matrix product with a constant weight; see `optimizers.step`."""
    context.report(0.0, "preparing")
    candidates = operator_names(model, _OPERATORS)
    tables = operator_names(model, ("Gather",)) if step.embeddings else []
    check_excluded("dynamic_int8", step.exclude, [*candidates, *tables])
    if not candidates:
        note = "the model has no matrix product (MatMul, Gemm); nothing to quantise"
        return context.unchanged(model, note)
    prepared = prepare(model, context.work_directory / "prepared.onnx")
    target = context.work_directory / "dynamic_int8.onnx"
    reduce_range = reduced_range(step.reduce_range, context.host)
    excluded = names_after_preparing(model, prepared, step.exclude)
    context.report(0.5, "quantising")
    quantize_dynamic(
        str(prepared),
        str(target),
        op_types_to_quantize=list(_OPERATORS),
        per_channel=step.per_channel,
        reduce_range=reduce_range,
        weight_type=QuantType.QInt8,
        use_external_data_format=is_large(prepared),
        # A Gemm is rewritten to a MatMul of this name before the list is looked at.
        nodes_to_exclude=[alias for name in excluded for alias in (name, name + _GEMM_SUFFIX)],
        extra_options={"MatMulConstBOnly": True},
    )
    quantised = count_operators(target, "MatMulInteger", "DynamicQuantizeMatMul")
    context.report(1.0, "quantised")
    if quantised == 0:
        note = f"none of {len(candidates)} matrix products has a constant weight to quantise"
        return context.unchanged(model, note)
    notes = [f"quantised {quantised} of {len(candidates)} matrix products to int8"]
    if step.exclude:
        notes.append(f"left alone as asked: {', '.join(step.exclude)}")
    if reduce_range:
        notes.append(seven_bits(step.reduce_range))
    if step.embeddings:
        notes.extend(_narrowed_tables(target, excluded))
    notes.append(str(leftovers(target, context.session)))
    return StepResult(model=target, session=context.session, modified=True, notes=tuple(notes))


def _narrowed_tables(model: Path, excluded: Sequence[str]) -> Iterator[str]:
    """Narrow a model's tables in place, and say which."""
    from optimizers.quantization.tables import narrow_tables  # loads torch, which takes seconds

    result = narrow_tables(model, excluded)
    yield f"{len(result.names)} embeddings in 8 bits"
    for name, why in result.left.items():
        yield f"left {name} alone: {why}"
