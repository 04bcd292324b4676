"""What every step does that stores the weights of products in a few bits, but for the quantiser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from math import sqrt
from pathlib import Path
from typing import Final

from optimizers.contract.errors import InvalidDocument
from optimizers.contract.quantization import Binarize, Ternarize
from optimizers.graph import (
    check_excluded,
    count_operators,
    load_named,
    names_after_preparing,
    operator_names,
    prepare,
)
from optimizers.quantization.narrowed import Narrowed
from optimizers.quantization.narrowing import PRODUCTS, Narrowing, Quantise
from optimizers.quantization.nbits import Codes, Floats, NarrowWeight, narrow_weight
from optimizers.saving import save
from optimizers.step import StepContext, StepResult

_BITS_OF_VALUES: Final = 2
_NARROW: Final = ("MatMulNBits", "GatherBlockQuantized")


def narrow_products(
    model: Path,
    context: StepContext,
    *,
    name: str,
    quantiser: Callable[[Path], Quantise],
    exclude: tuple[str, ...],
    include: tuple[str, ...] = (),
    embeddings: bool = False,
) -> StepResult:
    """Write a copy of the model whose weights of products are narrow.

    Args:
        model: The model as it is; stays untouched.
        context: Of the step.
        name: The step's.
        quantiser: Gives what stores one weight in codes, for the model as it was prepared.
        exclude: Names of nodes to leave alone.
        include: Names of the only products to narrow; all when empty.
        embeddings: Whether the tables of Gather are narrowed as well.

    Raises:
        InvalidDocument: An excluded or included node is none that the step could touch.
    """
    context.report(0.0, "preparing")
    candidates = operator_names(model, (*PRODUCTS, "Gather") if embeddings else PRODUCTS)
    check_excluded(name, exclude, candidates)
    check_excluded(name, include, candidates, key="include")
    if both := sorted({*include} & {*exclude}):
        raise InvalidDocument(f"{name}.include and exclude both name {', '.join(both)}")
    if not candidates:
        return context.unchanged(model, "the model has no matrix product (MatMul, Gemm)")
    prepared = prepare(model, context.work_directory / "prepared.onnx")
    excluded = names_after_preparing(model, prepared, exclude)
    chosen = set(names_after_preparing(model, prepared, include))
    chosen = (chosen or set(operator_names(prepared, PRODUCTS))) - set(excluded)
    quantise = _reporting(quantiser(prepared), len(chosen), context)
    narrowing = Narrowing(load_named(prepared), quantise)
    narrowing.products(chosen)
    if embeddings:
        narrowing.embeddings(excluded)
    result = narrowing.result
    if not result.names:
        left = tuple(_left_alone(result, exclude))
        return context.unchanged(model, *(left or ("nothing to quantise",)))
    target = context.work_directory / f"{name}.onnx"
    save(narrowing.finish(), target)
    context.report(1.0, "written")
    notes = (_told(prepared, target, result), *_left_alone(result, exclude))
    return StepResult(model=target, session=context.session, modified=True, notes=notes)


def narrow_to_values(
    model: Path,
    step: Binarize | Ternarize,
    context: StepContext,
    *,
    name: str,
    values: Callable[[Floats, int], tuple[Codes, Floats]],
) -> StepResult:
    """Store every product's weight in codes of two bits.

    Args:
        model: As for `narrow_products`.
        step: Says which products, and the size of blocks.
        context: Of the step.
        name: The step's.
        values: From a weight [rows, columns] and the size of blocks, codes [columns, blocks, size]
            and scales [columns, blocks].
    """

    def quantise(weight: Floats, _: str) -> NarrowWeight:
        codes, scales = values(weight, step.block_size)
        return narrow_weight(codes, scales, len(weight), _BITS_OF_VALUES)

    return narrow_products(
        model,
        context,
        name=name,
        quantiser=lambda _: quantise,
        include=step.include,
        exclude=step.exclude,
    )


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


def _told(before: Path, target: Path, result: Narrowed) -> str:
    """What became narrow in the file that was written, not what was meant to be."""
    products, tables = (
        count_operators(target, operator) - count_operators(before, operator)
        for operator in _NARROW
    )
    shrunk = result.before_bytes / result.after_bytes
    off = sqrt(result.squared_errors / result.squared) if result.squared else 0.0
    what = f"{products} matrix products" + (f" and {tables} embeddings" if tables else "")
    return (
        f"narrowed {what}; their weights take {result.after_bytes} bytes, {shrunk:.1f} times "
        f"fewer, and are off by {off:.1%} of their size"
    )


def _left_alone(result: Narrowed, excluded: tuple[str, ...]) -> Iterator[str]:
    for name, why in result.left.items():
        yield f"left {name} alone: {why}"
    if excluded:
        yield f"left alone as asked: {', '.join(excluded)}"
