"""Ranges of every tensor, measured on calibration data a few items at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator
from onnxruntime.quantization.calibrate import save_tensors_data

from optimizers.calibration import Arrays, batches, fitting_batches, item_count, whole_batches
from optimizers.contract.quantization import StaticInt8
from optimizers.contract.runtime import signature_of
from optimizers.contract.signature import Signature
from optimizers.saving import is_large

METHODS: Final = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}

_MOST_ITEMS_AT_ONCE: Final = 16
_MOST_BYTES_AT_ONCE: Final = 64 << 20


def measure_ranges(
    prepared: Path,
    step: StaticInt8,
    items: Arrays,
    operators: Sequence[str],
    *,
    symmetric: bool,
    directory: Path,
    report: Callable[[float], None],
) -> Path:
    """Measure every tensor's range, a few items at a time.

    The library holds every activation of the items it is given, and merges what they tell into
    its ranges or histograms before it is given the next.

    Args:
        prepared: The model, as `prepare` left it.
        step: How a range is chosen.
        items: What the model is run on.
        operators: Whose inputs and outputs are measured.
        symmetric: Whether ranges are made symmetric around zero.
        directory: Where the files go.
        report: Takes the share that is done, in [0, 1].

    Returns:
        A file that `quantize_static` reads as its cache.
    """
    options: dict[str, Any] = {"symmetric": symmetric}
    if step.calibration == "percentile":
        options["percentile"] = step.percentile
    calibrator = create_calibrator(
        str(prepared),
        list(operators),
        augmented_model_path=str(directory / "augmented.onnx"),
        calibrate_method=METHODS[step.calibration],
        use_external_data_format=is_large(prepared),
        extra_options=options,
    )
    signature = signature_of(calibrator.infer_session)
    items = whole_batches(items, signature)
    count, chunk = item_count(items), _items_at_once(calibrator.infer_session, signature, items)
    for done, part in enumerate(batches(items, chunk), start=1):
        calibrator.collect_data(_Reader(part, signature))
        report(min(1.0, done * chunk / count))
    ranges = directory / "ranges.json"
    save_tensors_data(calibrator.compute_data(), ranges)
    return ranges


def _items_at_once(
    session: onnxruntime.InferenceSession, signature: Signature, items: Arrays
) -> int:
    """How many items may be held together, by what one run makes the caller hold.

    It is one item a run, or the batch where that is fixed.
    """
    one = next(fitting_batches(items, signature, 1))
    answers: list[NDArray[np.generic]] = session.run(None, one)
    held = sum(array.nbytes for array in (*one.values(), *answers))
    runs = max(1, min(_MOST_ITEMS_AT_ONCE, _MOST_BYTES_AT_ONCE // max(1, held)))
    return runs * item_count(one)


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Hands a few items to the library, one run after the other."""

    def __init__(self, items: Arrays, signature: Signature) -> None:
        self._items = fitting_batches(items, signature, 1)

    def get_next(self) -> Arrays | None:
        return next(self._items, None)
