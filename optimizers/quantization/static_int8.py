"""Static int8: weights and activations in int8, ranges measured on calibration data.

Each tensor x becomes q = clip(round(x / s) + z); s and z follow from the range that calibration
finds: MinMax (the extremes), Percentile (a share of all values), or Entropy (the range whose
quantised histogram loses least information, Kullback-Leibler; Migacz, GTC 2017).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from optimizers.calibration import Arrays, item_count, load_arrays
from optimizers.contract.errors import InvalidData
from optimizers.contract.quantization import StaticInt8
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.graph import (
    check_excluded,
    count_operators,
    integer_weight_names,
    names_after_preparing,
    operator_names,
    prepare,
)
from optimizers.quantization.bias_correction import (
    Corrected,
    copy_biases,
    correct_biases,
    give_biases,
)
from optimizers.quantization.equalization import equalize
from optimizers.quantization.integer_model import (
    OPERATORS,
    TOUCHED,
    Arrangement,
    arrangement,
    write_integers,
)
from optimizers.quantization.leftovers import leftovers, warning
from optimizers.quantization.measured_ranges import measure_ranges
from optimizers.quantization.ranges import seven_bits
from optimizers.quantization.sensitivity import Ranking, rank
from optimizers.step import StepContext, StepResult


def apply(model: Path, step: StaticInt8, context: StepContext) -> StepResult:
    """Quantise convolutions and products, and what lies between them; see `optimizers.step`."""
    context.report(0.0, "preparing")
    candidates = operator_names(model, OPERATORS)
    check_excluded("static_int8", step.exclude, candidates)
    if not candidates:
        note = "the model has no Conv, MatMul or Gemm; nothing to quantise"
        return _unchanged(model, context, note)
    build = _Build(model, step, context, candidates)
    build.write()
    quantised = integer_weight_names(build.target, OPERATORS)
    found = f"{len(quantised)} of {len(candidates)} convolutions and products"
    if not quantised:
        note = f"{found} have a constant weight that was quantised"
        return _unchanged(model, context, note, *build.notes)
    if step.correct_bias:
        build.correct(quantised)
    context.report(1.0, "quantised")
    first = (
        f"quantised {found}, {build.how.scheme.upper()}, {step.calibration} over "
        f"{item_count(build.items)} items, "
        f"{count_operators(build.target, 'QuantizeLinear')} conversions before fusion"
    )
    notes = (first, *_asides(step, build.how, build.excluded), *build.notes, *build.fused())
    return StepResult(model=build.target, session=context.session, modified=True, notes=notes)


class _Build:
    """One int8 model in the making.

    Attributes:
        target: Its file.
        how: Types and scales.
        items: Calibration items.
        excluded: Nodes of the model as given that are left in floating point as asked.
        notes: What the options did.
    """

    def __init__(
        self, model: Path, step: StaticInt8, context: StepContext, candidates: Sequence[str]
    ) -> None:
        self._step, self._context = step, context
        self.items = _calibration_items(model, step, context)
        self.how = arrangement(step, context.host)
        self.excluded = [*step.exclude, *(candidates[:1] if step.skip_first else ())]
        self.target = context.work_directory / "static_int8.onnx"
        self.notes: list[str] = []
        self._prepared = prepare(model, context.work_directory / "prepared.onnx")
        after = names_after_preparing(model, self._prepared, candidates)
        self._known_as = dict(zip(after, candidates, strict=True))
        self._excluded = names_after_preparing(model, self._prepared, self.excluded)

    def write(self) -> None:
        """Quantise what is not excluded nor sensitive."""
        step, context = self._step, self._context
        if step.equalize:
            self.notes.append(str(equalize(self._prepared, self._prepared)))
        if step.correct_bias:
            give_biases(self._prepared)
        count = item_count(self.items)
        self._ranges = measure_ranges(
            self._prepared,
            step,
            self.items,
            TOUCHED,
            symmetric=self.how.scheme == "s8s8",
            directory=context.work_directory,
            report=lambda share: context.report(
                0.1 + 0.4 * share, f"calibrating, {round(share * count)} of {count} items"
            ),
        )
        kept = self._most_sensitive() if step.keep_float else []
        context.report(0.8, "quantising")
        self._write_to(self.target, kept)

    def correct(self, quantised: Sequence[str]) -> None:
        """Correct the biases of these nodes."""
        corrected = self._correct_to(
            self.target,
            self.target,
            quantised,
            lambda share: self._context.report(0.8 + 0.2 * share, "correcting biases"),
        )
        self.notes.append(str(corrected))

    def fused(self) -> Iterator[str]:
        """What is to be said of the model as the runtime runs it."""
        yield str(leftovers(self.target, self._context.session))
        said = warning(self.how.scheme, self._context.host)
        if said:
            yield said

    def _most_sensitive(self) -> list[str]:
        """Nodes of the prepared model to keep, each noted under the name it was given."""
        trial = self._context.work_directory / "trial.onnx"
        corrected = self._context.work_directory / "trial_corrected.onnx"
        candidates = integer_weight_names(self._write_to(trial, ()), OPERATORS)
        if self._step.correct_bias:
            self._correct_to(corrected, trial, candidates, lambda share: None)

        def quantized_without(kept: Sequence[str]) -> Path:
            self._write_to(trial, kept)
            if self._step.correct_bias:
                copy_biases(corrected, trial, candidates)
            return trial

        ranking = rank(
            self._prepared,
            quantized_without,
            candidates,
            self.items,
            self._step.rank_seconds,
            lambda share, text: self._context.report(0.5 + 0.3 * share, text),
        )
        kept = ranking.best(self._step.keep_float)
        self.notes.append(self._ranked(ranking, kept))
        return kept

    def _correct_to(
        self, target: Path, source: Path, quantised: Sequence[str], report: Callable[[float], None]
    ) -> Corrected:
        return correct_biases(self._prepared, source, target, quantised, self.items, report)

    def _ranked(self, ranking: Ranking, kept: Sequence[str]) -> str:
        shown = ", ".join(
            f"{self._known_as.get(name, name)} ({ranking.alone[name]:.1f} dB)" for name in kept
        )
        return (
            f"kept in floating point as most sensitive: {shown or 'none, as none helps'}; "
            f"all as integers give {ranking.everything:.1f} dB on the {ranking.items} items that "
            f"differ most; tried {len(ranking.alone)} of {ranking.candidates} nodes"
        )

    def _write_to(self, target: Path, kept: Sequence[str]) -> Path:
        excluded = [*self._excluded, *kept]
        return write_integers(self._prepared, self._ranges, target, self.how, excluded)


def _asides(step: StaticInt8, how: Arrangement, excluded: Sequence[str]) -> Iterator[str]:
    if excluded:
        yield f"left in floating point as asked: {', '.join(excluded)}"
    if how.reduce_range:
        yield seven_bits(step.reduce_range)
    elif step.reduce_range is True:
        yield f"reduce_range was left alone: only U8S8 can saturate, not {how.scheme.upper()}"


def _unchanged(model: Path, context: StepContext, *notes: str) -> StepResult:
    return StepResult(model=model, session=context.session, modified=False, notes=notes)


def _calibration_items(model: Path, step: StaticInt8, context: StepContext) -> Arrays:
    path = context.data.get("calibration")
    if path is None:
        raise InvalidData(
            "static_int8 needs calibration data: name an .npz as data.calibration in hone.yaml"
        )
    with closing(Session(model, SessionSpec())) as session:
        items, _ = load_arrays(path, session.signature, step.samples)
    return items
