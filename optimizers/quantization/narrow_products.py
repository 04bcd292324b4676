"""What every step does that stores the weights of products in a few bits, but for the quantiser."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from itertools import count
from math import sqrt
from pathlib import Path

from optimizers.contract.errors import InvalidDocument
from optimizers.contract.quantization import WeightsNbits
from optimizers.graph import (
    count_operators,
    load_named,
    matching_names,
    names_after_preparing,
    operator_names,
    prepare,
)
from optimizers.learning.items import training_items
from optimizers.quantization.coding import Coder, coded
from optimizers.quantization.narrow_training import NarrowStep, train_narrow
from optimizers.quantization.narrowed import Narrowed
from optimizers.quantization.narrowing import PRODUCTS, Narrowing, Quantise
from optimizers.quantization.nbits import Floats, NarrowWeight
from optimizers.quantization.remaining import NARROW, remaining_floats
from optimizers.saving import save
from optimizers.step import StepContext, StepResult

_PREPARED = 0.1
_TRAINED = 0.95
"""Shares of the work that are done then, where the model is trained."""


def narrow_by(
    model: Path, step: NarrowStep, context: StepContext, *, name: str, code: Coder
) -> StepResult:
    """Write a copy of the model whose weights a coder made narrow, trained with it if asked.

    Args:
        model: The model as it is; stays untouched.
        step: Says which products, and how they are trained.
        context: Of the step.
        name: The step's.
        code: What trains and what is stored.

    Raises:
        InvalidDocument: A name or pattern stands for no node that the step could touch.
        InvalidData: It is to be trained, and there are no training items.
        NotSupported: It is to be trained, and has operators that cannot be.
    """
    return narrow_products(
        model,
        step,
        context,
        name=name,
        quantiser=lambda _: lambda weight, _: coded(weight, code),
        code=code,
    )


def narrow_products(
    model: Path,
    step: NarrowStep,
    context: StepContext,
    *,
    name: str,
    quantiser: Callable[[Path], Quantise],
    code: Coder | None = None,
) -> StepResult:
    """Write a copy of the model whose weights of products are narrow.

    Args:
        model: The model as it is; stays untouched.
        step: Says which products.
        context: Of the step.
        name: The step's.
        quantiser: Gives what stores one weight in codes, for the model as it was prepared.
        code: The same as a coder, where the step may be trained.

    Raises:
        InvalidDocument: A name or pattern stands for no node that the step could touch.
    """
    context.report(0.0, "preparing")
    embeddings = isinstance(step, WeightsNbits) and step.embeddings
    operators = (*PRODUCTS, "Gather") if embeddings else PRODUCTS
    candidates = operator_names(model, operators)
    include, exclude = _asked_for(name, step, candidates)
    if not candidates:
        return context.unchanged(model, "the model has no matrix product (MatMul, Gemm)")
    items = None if step.training is None else training_items(name, model, context)
    prepared = prepare(model, context.work_directory / "prepared.onnx")
    chosen = set(names_after_preparing(model, prepared, include))
    chosen = chosen or set(operator_names(prepared, operators))
    chosen -= set(names_after_preparing(model, prepared, exclude))
    quantise = quantiser(prepared)
    if items is None:
        quantise = _reporting(quantise, len(chosen), context)
    narrowing = _narrowed(prepared, quantise, chosen)
    left = tuple(_left_alone(narrowing.result, exclude))
    if not narrowing.result.names:
        return context.unchanged(model, *(left or ("nothing to quantise",)))
    trained = None
    if items is not None and code is not None:
        part = context.part("training", _PREPARED, _TRAINED)
        trained = train_narrow(prepared, narrowing.places, code, items, part, step=step, name=name)
        if trained.modified:
            narrowing = _narrowed(trained.model, quantise, chosen)
    target = context.work_directory / f"{name}.onnx"
    save(narrowing.finish(), target)
    context.report(1.0, "written")
    notes = [_told(prepared, target, narrowing.result, trained), *left, remaining_floats(target)]
    if trained is not None:
        notes[1:1] = trained.notes
    return StepResult(model=target, session=context.session, modified=True, notes=tuple(notes))


def _asked_for(
    name: str, step: NarrowStep, candidates: Sequence[str]
) -> tuple[Sequence[str], Sequence[str]]:
    """The nodes that are included and those that are excluded by name or pattern."""
    exclude = matching_names(name, step.exclude, candidates)
    include = matching_names(name, step.include, candidates, key="include")
    if both := sorted({*step.include} & {*step.exclude}):
        raise InvalidDocument(f"{name}.include and exclude both name {', '.join(both)}")
    return include, exclude


def _narrowed(model: Path, quantise: Quantise, chosen: Collection[str]) -> Narrowing:
    narrowing = Narrowing(load_named(model), quantise)
    narrowing.products(chosen)
    narrowing.embeddings(chosen)
    return narrowing


def with_notes(result: StepResult, *notes: str) -> StepResult:
    """The same with more to say, if it changed anything."""
    if not result.modified:
        return result
    return replace(result, notes=(*result.notes, *notes))


def _reporting(quantise: Quantise, expected: int, context: StepContext) -> Quantise:
    """The same quantiser, which tells how far it is."""
    done = count(1)

    def told(weight: Floats, value: str) -> NarrowWeight:
        narrow, number = quantise(weight, value), next(done)
        share = 0.3 + 0.6 * min(1.0, number / max(1, expected))
        context.report(share, f"quantised {number} weights")
        return narrow

    return told


def _told(before: Path, target: Path, result: Narrowed, trained: StepResult | None) -> str:
    """What became narrow in the file that was written, not what was meant to be."""
    products, tables = (
        count_operators(target, operator) - count_operators(before, operator) for operator in NARROW
    )
    shrunk = result.before_bytes / result.after_bytes
    what = f"{products} matrix products" + (f" and {tables} embeddings" if tables else "")
    told = (
        f"narrowed {what}; their weights take {result.after_bytes} bytes, {shrunk:.1f} times fewer"
    )
    if trained is not None and trained.modified:
        return told
    off = sqrt(result.squared_errors / result.squared) if result.squared else 0.0
    return f"{told}, and are off by {off:.1%} of their size"


def _left_alone(result: Narrowed, excluded: Sequence[str]) -> Iterator[str]:
    for name, why in result.left.items():
        yield f"left {name} alone: {why}"
    if excluded:
        yield f"left alone as asked: {', '.join(excluded)}"
