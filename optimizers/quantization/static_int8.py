"""Static int8: weights and activations in int8, ranges measured on calibration data.

Each tensor x becomes q = clip(round(x / s) + z); s and z follow from the range that calibration
finds: MinMax (the extremes), Percentile (a share of all values), or Entropy (the range whose
quantised histogram loses least information, Kullback-Leibler; Migacz, GTC 2017).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from optimizers.calibration import Arrays, calibration_file, item_count, load_drawn, whole_batches
from optimizers.contract.quantization import StaticInt8
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.graph import (
    check_excluded,
    count_operators,
    integer_weight_names,
    operator_names,
)
from optimizers.quantization.integer_model import OPERATORS, Arrangement
from optimizers.quantization.ranges import seven_bits
from optimizers.quantization.static_build import StaticBuild
from optimizers.step import StepContext, StepResult


def apply(model: Path, step: StaticInt8, context: StepContext) -> StepResult:
    """Quantise convolutions and products, and what lies between them; see `optimizers.step`."""
    context.report(0.0, "preparing")
    candidates = operator_names(model, OPERATORS)
    check_excluded("static_int8", step.exclude, candidates)
    if not candidates:
        note = "the model has no Conv, MatMul or Gemm; nothing to quantise"
        return context.unchanged(model, note)
    items = _calibration_items(model, step, context)
    build = StaticBuild(model, step, context, candidates, items)
    build.write()
    quantised = integer_weight_names(build.target, OPERATORS)
    found = f"{len(quantised)} of {len(candidates)} convolutions and products"
    if not quantised:
        note = f"{found} have a constant weight that was quantised"
        return context.unchanged(model, note, *build.notes)
    if step.correct_bias:
        build.correct(quantised)
    context.report(1.0, "quantised")
    first = (
        f"quantised {found}, {build.how.scheme.upper()}, {step.calibration} over "
        f"{item_count(items)} items, "
        f"{count_operators(build.target, 'QuantizeLinear')} conversions before fusion"
    )
    notes = (first, *_asides(step, build.how, build.excluded), *build.notes, *build.fused())
    return StepResult(model=build.target, session=context.session, modified=True, notes=notes)


def _asides(step: StaticInt8, how: Arrangement, excluded: Sequence[str]) -> Iterator[str]:
    if excluded:
        yield f"left in floating point as asked: {', '.join(excluded)}"
    if how.reduce_range:
        yield seven_bits(step.reduce_range)
    elif step.reduce_range is True:
        yield f"reduce_range was left alone: only U8S8 can saturate, not {how.scheme.upper()}"


def _calibration_items(model: Path, step: StaticInt8, context: StepContext) -> Arrays:
    path = calibration_file(context, "static_int8")
    with closing(Session(model, SessionSpec())) as session:
        items = load_drawn(path, session.signature, step.samples, context.seed)
        return whole_batches(items, session.signature)
