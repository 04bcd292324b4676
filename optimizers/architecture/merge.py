"""Merge: several linear operators become one that gives the same answers.

The step compares its model with the one it got on random inputs, and refuses what differs.
"""

from __future__ import annotations

from collections.abc import Callable
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
    """Merge what the step names, in the order of `MERGINGS`; see `optimizers.step`."""
    context.report(0.0, "merging")
    graph = read_model(model)
    notes = []
    # Branches can be added up once their normalisations are part of their convolutions.
    for merging in MERGINGS:
        if merging in step.which:
            merge, what = _MERGERS[merging]
            count = merge(graph)
            common.RemoveUnusedNodesPass()(graph)
            notes += [f"{count} {what}"] if count else []
    alone = products_with_shared_weights(graph) if "parallel" in step.which else []
    said = [f"left alone, for other nodes read their weights: {', '.join(alone)}"] if alone else []
    if not notes:
        context.report(1.0, "nothing to merge")
        return context.unchanged(model, f"found nothing of {', '.join(step.which)} to merge", *said)
    target = write_model(graph, context.work_directory / "merged.onnx")
    context.report(0.7, "comparing")
    why = why_different(model, target, tolerance=_TOLERANCE, seed=context.seed)
    context.report(1.0, "compared")
    if why:
        return context.unchanged(model, f"left as it was: {why}")
    notes += said
    return StepResult(model=target, session=context.session, modified=True, notes=tuple(notes))
