"""Static int8: weights and activations in int8, ranges measured on calibration data.

Each tensor x becomes q = clip(round(x / s) + z); s and z follow from the range that calibration
finds: MinMax (the extremes), Percentile (a share of all values), or Entropy (the range whose
quantised histogram loses least information, Kullback-Leibler; Migacz, GTC 2017).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import onnxruntime
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    create_calibrator,
    quantize_static,
)
from onnxruntime.quantization.calibrate import save_tensors_data

from optimizers.calibration import Arrays, batches, item_count, load_arrays
from optimizers.contract.errors import InvalidData
from optimizers.contract.quantization import StaticInt8
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.graph import (
    check_excluded,
    count_integer_weights,
    count_operators,
    names_after_preparing,
    operator_names,
    prepare,
)
from optimizers.quantization.ranges import reduced_range, seven_bits
from optimizers.step import StepContext, StepResult

_OPERATORS: Final = ("Conv", "MatMul", "Gemm")
_AROUND_THEM: Final = ("Relu", "Clip", "MaxPool", "Add", "Concat", "Reshape", "Flatten")
_MOST_ITEMS_AT_ONCE: Final = 16
_MOST_BYTES_AT_ONCE: Final = 64 << 20
_METHODS: Final = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
_TYPES: Final = {"u": QuantType.QUInt8, "s": QuantType.QInt8}


def apply(model: Path, step: StaticInt8, context: StepContext) -> StepResult:
    """Quantise convolutions and products, and what lies between them; see `optimizers.step`."""
    context.report(0.0, "preparing")
    candidates = operator_names(model, _OPERATORS)
    check_excluded("static_int8", step.exclude, candidates)
    if not candidates:
        note = "the model has no Conv, MatMul or Gemm; nothing to quantise"
        return _unchanged(model, context, note)
    items = _calibration_items(model, step, context)
    work = context.work_directory
    prepared = prepare(model, work / "prepared.onnx")
    scheme = step.scheme
    if scheme == "auto":
        scheme = "s8s8" if context.host.is_arm else "u8s8"
    reduce_range = reduced_range(step.reduce_range, context.host) and scheme == "u8s8"
    excluded = [*step.exclude, *(candidates[:1] if step.skip_first else ())]
    target = work / "static_int8.onnx"
    with _quiet_library():
        ranges = _calibrate(prepared, step, items, scheme, context)
        context.report(0.8, "quantising")
        quantize_static(
            str(prepared),
            str(target),
            calibration_cache_path=str(ranges),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*_OPERATORS, *_AROUND_THEM],
            per_channel=step.per_channel,
            reduce_range=reduce_range,
            activation_type=_TYPES[scheme[0]],
            weight_type=_TYPES[scheme[2]],
            nodes_to_exclude=names_after_preparing(model, prepared, excluded),
            calibrate_method=_METHODS[step.calibration],
            extra_options={"ActivationSymmetric": scheme == "s8s8"},
        )
    context.report(1.0, "quantised")
    quantised = count_integer_weights(target, _OPERATORS)
    found = f"{quantised} of {len(candidates)} convolutions and products"
    if quantised == 0:
        return _unchanged(model, context, f"{found} have a constant weight that was quantised")
    first = (
        f"quantised {found}, {scheme.upper()}, {step.calibration} over {item_count(items)} items, "
        f"{count_operators(target, 'QuantizeLinear')} conversions before fusion"
    )
    notes = (first, *_asides(step, scheme, excluded, reduce_range=reduce_range))
    return StepResult(model=target, session=context.session, modified=True, notes=notes)


def _asides(
    step: StaticInt8, scheme: str, excluded: Sequence[str], *, reduce_range: bool
) -> Iterator[str]:
    if excluded:
        yield f"left in floating point as asked: {', '.join(excluded)}"
    if reduce_range:
        yield seven_bits(step.reduce_range)
    elif step.reduce_range is True:
        yield f"reduce_range was left alone: only U8S8 can saturate, not {scheme.upper()}"


def _unchanged(model: Path, context: StepContext, note: str) -> StepResult:
    return StepResult(model=model, session=context.session, modified=False, notes=(note,))


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Hands a few items to the library, one at a time."""

    def __init__(self, items: Arrays) -> None:
        self._items = batches(items, 1)

    def get_next(self) -> Arrays | None:
        return next(self._items, None)


def _calibration_items(model: Path, step: StaticInt8, context: StepContext) -> Arrays:
    path = context.data.get("calibration")
    if path is None:
        raise InvalidData(
            "static_int8 needs calibration data: name an .npz as data.calibration in hone.yaml"
        )
    with closing(Session(model, SessionSpec())) as session:
        items, _ = load_arrays(path, session.signature, step.samples)
    return items


def _calibrate(
    prepared: Path, step: StaticInt8, items: Arrays, scheme: str, context: StepContext
) -> Path:
    """Measure every tensor's range, a few items at a time.

    The library holds every activation of the items it is given, and merges what they tell into
    its ranges or histograms before it is given the next.
    """
    options: dict[str, Any] = {"symmetric": scheme == "s8s8"}
    if step.calibration == "percentile":
        options["percentile"] = step.percentile
    calibrator = create_calibrator(
        str(prepared),
        [*_OPERATORS, *_AROUND_THEM],
        augmented_model_path=str(context.work_directory / "augmented.onnx"),
        calibrate_method=_METHODS[step.calibration],
        extra_options=options,
    )
    count, chunk = item_count(items), _chunk(calibrator.infer_session, items)
    for done, part in enumerate(batches(items, chunk), start=1):
        calibrator.collect_data(_Reader(part))
        share = min(1.0, done * chunk / count)
        context.report(0.1 + 0.7 * share, f"calibrating, {round(share * count)} of {count} items")
    ranges = context.work_directory / "ranges.json"
    save_tensors_data(calibrator.compute_data(), ranges)
    return ranges


def _chunk(calibrated: onnxruntime.InferenceSession, items: Arrays) -> int:
    """How many items the library may be given at once, by what one of them makes it hold."""
    one = next(batches(items, 1))
    held = sum(array.nbytes for array in (*one.values(), *calibrated.run(None, one)))
    fitting: int = _MOST_BYTES_AT_ONCE // max(1, held)
    return max(1, min(_MOST_ITEMS_AT_ONCE, fitting))


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
