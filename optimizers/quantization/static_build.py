"""The parts of static int8 in their order: equalise, measure, rank, quantise, correct.

A node is ranked with the biases corrected where they will be: correction repairs much of what
makes a node look sensitive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from optimizers.calibration import Arrays, item_count
from optimizers.contract.quantization import StaticInt8
from optimizers.graph import integer_weight_names, names_after_preparing, prepare
from optimizers.quantization.bias_correction import (
    Corrected,
    copy_biases,
    correct_biases,
    give_biases,
)
from optimizers.quantization.equalization import equalize
from optimizers.quantization.integer_model import OPERATORS, TOUCHED, arrangement, write_integers
from optimizers.quantization.leftovers import leftovers, warning
from optimizers.quantization.measured_ranges import measure_ranges
from optimizers.quantization.sensitivity import Ranking, rank
from optimizers.step import StepContext


class StaticBuild:
    """One int8 model in the making.

    Attributes:
        target: Its file.
        how: Types and scales.
        excluded: Nodes of the model as given that are left in floating point as asked.
        notes: What the options did.
    """

    def __init__(
        self,
        model: Path,
        step: StaticInt8,
        context: StepContext,
        candidates: Sequence[str],
        items: Arrays,
    ) -> None:
        """Prepare a model.

        Args:
            model: As given; stays untouched.
            step: What is asked for.
            context: Where and for what.
            candidates: Names of the nodes of `model` that could be quantised, in its order.
            items: Calibration items.
        """
        self._step, self._context = step, context
        self._items = items
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
        count = item_count(self._items)
        self._ranges = measure_ranges(
            self._prepared,
            step,
            self._items,
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
            self._items,
            self._step.rank_seconds,
            lambda share, text: self._context.report(0.5 + 0.3 * share, text),
        )
        kept = ranking.best(self._step.keep_float)
        self.notes.append(self._ranked(ranking, kept))
        return kept

    def _correct_to(
        self, target: Path, source: Path, quantised: Sequence[str], report: Callable[[float], None]
    ) -> Corrected:
        return correct_biases(self._prepared, source, target, quantised, self._items, report)

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
