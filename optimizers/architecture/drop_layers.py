"""Drop layers: residual blocks x + f(x) become x, those first that change x least.

importance = 1 - mean of cos(x, y) over calibration items, for y = x + f(x) (ShortGPT's block
influence, arXiv 2403.03853, with all of an item's values as one vector).
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Final

import numpy as np
import onnx_ir as ir

from optimizers.architecture.proof import random_feeds
from optimizers.calibration import Arrays, fitting_batches, item_count, load_drawn
from optimizers.contract.architecture import DropLayers
from optimizers.contract.errors import InvalidData, InvalidDocument
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.step import StepContext, StepResult
from optimizers.structure.editing import read_model, show, write_model
from optimizers.structure.residual import leave_out, residual_blocks

_BATCH: Final = 8
_TINY: Final = 1e-12


def apply(model: Path, step: DropLayers, context: StepContext) -> StepResult:
    """Leave out the blocks asked for, or the least important; see `optimizers.step`."""
    context.report(0.0, "looking for residual blocks")
    importances = _importances(model, step, context)
    if not importances:
        note = "the model has no residual block x + f(x) with weights in f and one shape for both"
        return context.unchanged(model, note)
    chosen = _chosen(step, importances)
    graph = read_model(model)
    blocks = {block.name: block for block in residual_blocks(graph.graph)}
    before = _size(graph)
    for name in chosen:
        leave_out(blocks[name])
    target = write_model(graph, context.work_directory / "dropped.onnx")
    context.report(1.0, "left out")
    notes = [f"left out {len(chosen)} of {len(importances)} residual blocks: {', '.join(chosen)}"]
    notes.append(f"{before} became {_size(graph)}")
    shown = ", ".join(f"{name} {value:.4f}" for name, value in importances.items())
    notes.append(f"importance (1 - cosine): {shown}")
    return StepResult(model=target, session=context.session, modified=True, notes=tuple(notes))


def _chosen(step: DropLayers, importances: dict[str, float]) -> list[str]:
    names = list(importances)
    unknown = [block for block in step.blocks if block >= len(names)]
    if unknown:
        raise InvalidDocument(
            f"drop_layers.blocks names {unknown}; the model has {len(names)} residual blocks, "
            "counted from 0"
        )
    if step.blocks:
        return [names[block] for block in sorted(step.blocks)]
    least = sorted(names, key=lambda name: importances[name])[: step.count]
    return [name for name in names if name in least]


def _importances(model: Path, step: DropLayers, context: StepContext) -> dict[str, float]:
    """1 - mean cosine of what goes into each block and what comes out, in the model's order.

    A block whose Add stretches x to another shape is not among them.
    """
    graph = read_model(model)
    blocks = residual_blocks(graph.graph)
    if not blocks:
        return {}
    ends = [(str(block.source.name), str(block.result.name)) for block in blocks]
    names = [block.name for block in blocks]
    inner = sorted({name for pair in ends for name in pair} - {x.name for x in graph.graph.inputs})
    watched = [value for block in blocks for value in (block.source, block.result)]
    shown = show(graph, watched, context.work_directory / "shown.onnx")
    with closing(Session(shown, SessionSpec())) as session:
        items = _items(session, step, context)
        sums, done = np.zeros(len(blocks)), 0
        for batch in fitting_batches(items, session.signature, _BATCH):
            context.report(0.8 * done / item_count(items), "measuring importance")
            values = batch | dict(zip(inner, session.run(batch, inner), strict=True))
            sums += [_cosines(values[x], values[y]) for x, y in ends]
            done += item_count(batch)
    found = zip(names, 1 - sums / done, strict=True)
    return {name: float(importance) for name, importance in found if not np.isnan(importance)}


def _cosines(x: np.ndarray, y: np.ndarray) -> float:
    """The sum over items of cos(x, y); nan where the shapes differ."""
    if x.shape != y.shape:
        return float("nan")
    one, other = (each.reshape(len(each), -1).astype(np.float64) for each in (x, y))
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(np.sum(np.sum(one * other, axis=1) / np.maximum(lengths, _TINY)))


def _items(session: Session, step: DropLayers, context: StepContext) -> Arrays:
    path = context.data.get("calibration")
    if path is not None:
        return load_drawn(path, session.signature, step.samples, context.seed)
    if step.blocks:
        return random_feeds(session.signature, context.seed)
    raise InvalidData(
        "drop_layers needs calibration data to tell which blocks matter least: name an .npz as "
        "data.calibration in hone.yaml, or the blocks as drop_layers.blocks"
    )


def _size(graph: ir.Model) -> str:
    weights = [value.const_value for value in graph.graph.initializers.values()]
    stored = sum(weight.nbytes for weight in weights if weight is not None)
    return f"{len(graph.graph)} nodes with {stored} bytes of weights"
