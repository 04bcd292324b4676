"""Merge: several linear operators become one that gives the same answers.

The step compares its model with the one it got on random inputs, and leaves what differs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import onnx_ir as ir
from onnx_ir.passes import common

from optimizers.architecture.batch_norm import merge_batch_norms
from optimizers.architecture.branches import merge_branches
from optimizers.architecture.parallel import (
    merge_parallel_products,
    products_with_shared_weights,
)
from optimizers.architecture.proof import why_different
from optimizers.architecture.serial import merge_serial_maps
from optimizers.contract.architecture import MERGINGS, Merge, Merging
from optimizers.step import StepContext, StepResult
from optimizers.structure.editing import read_model, write_model

_TOLERANCE: Final = 1e-5
_MERGERS: Final[dict[Merging, tuple[Callable[[ir.Model], int], str]]] = {
    "batch_norm": (merge_batch_norms, "BatchNormalizations went into the operator before"),
    "branches": (merge_branches, "parallel branches went into one convolution"),
    "linear": (merge_serial_maps, "linear maps went into the one before"),
    "parallel": (merge_parallel_products, "products went into a wider one of the same input"),
}


def apply(model: Path, step: Merge, context: StepContext) -> StepResult:
    """Merge what the step names, in the order of `MERGINGS`; see `optimizers.step`.

    Where the answers to all of it differ, each kind is tried and compared by itself.
    """
    context.report(0.0, "merging")
    graph = read_model(model)
    # Branches can be added up once their normalisations are part of their convolutions.
    wanted = [merging for merging in MERGINGS if merging in step.which]
    done = [(merging, note) for merging in wanted for note in _merge(graph, merging)]
    said = _left_alone(graph, step)
    if not done:
        context.report(1.0, "nothing to merge")
        return context.unchanged(model, f"found nothing of {', '.join(step.which)} to merge", *said)
    target = write_model(graph, context.work_directory / "merged.onnx")
    context.report(0.7, "comparing")
    why = why_different(model, target, tolerance=_TOLERANCE, seed=context.seed)
    notes = [note for _, note in done]
    if why:
        failed = f"left as it was: {why}"
        if len(done) == 1:
            context.report(1.0, "compared")
            return context.unchanged(model, failed)
        target, notes = _one_by_one(model, [merging for merging, _ in done], context)
        if target == model:
            context.report(1.0, "compared")
            return context.unchanged(model, failed, *notes)
        said = _left_alone(read_model(target), step)
    context.report(1.0, "compared")
    return StepResult(model=target, session=context.session, modified=True, notes=(*notes, *said))


def _merge(graph: ir.Model, merging: Merging) -> list[str]:
    """Merge one kind in place; a note of what was done, none where nothing was."""
    merge, what = _MERGERS[merging]
    count = merge(graph)
    common.RemoveUnusedNodesPass()(graph)
    return [f"{count} {what}"] if count else []


def _one_by_one(
    model: Path, merging: Sequence[Merging], context: StepContext
) -> tuple[Path, list[str]]:
    """What is left of a model when each kind has to prove itself, and what is to be said of it."""
    current, notes = model, []
    for one in merging:
        graph = read_model(current)
        found = _merge(graph, one)
        if not found:  # it needed another that was left
            continue
        target = write_model(graph, context.work_directory / f"merged_{one}.onnx")
        why = why_different(model, target, tolerance=_TOLERANCE, seed=context.seed)
        if why:
            notes.append(f"left as it was, {one}: {why}")
        else:
            current, notes = target, [*notes, *found]
    return current, notes


def _left_alone(graph: ir.Model, step: Merge) -> list[str]:
    alone = products_with_shared_weights(graph) if "parallel" in step.which else []
    return [f"left alone, for other nodes read their weights: {', '.join(alone)}"] if alone else []
