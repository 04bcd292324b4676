"""Drop heads: attention heads that add least are cut out of all four products around them.

Of an attention's result sum_h c_h O_h, with c_h what head h gives and O_h its rows of the product
at the end, importance_h = mean of ||c_h O_h|| over tokens of calibration items.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from optimizers.architecture.proof import why_different
from optimizers.calibration import (
    Arrays,
    calibration_file,
    fitting_batches,
    item_count,
    load_drawn,
)
from optimizers.contract.architecture import DropHeads
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.step import StepContext, StepResult
from optimizers.structure.attention import (
    Attention,
    attentions,
    columns,
    keep_heads,
    silence_heads,
)
from optimizers.structure.editing import read_model, show, write_model

_BATCH: Final = 8
_TOLERANCE: Final = 1e-5

Importances = NDArray[np.float64]
"""One number a head."""


def apply(model: Path, step: DropHeads, context: StepContext) -> StepResult:
    """Cut the least important heads out of each attention; see `optimizers.step`.

    What is left has to answer as if the others had been silenced, or it is refused.
    """
    context.report(0.0, "looking for attention")
    measured = _measure(model, step, context)
    graph, silenced = read_model(model), read_model(model)
    notes = _cut(graph, silenced, measured, step.count)
    if not notes:
        return context.unchanged(model, f"no attention with more than {step.count} heads was found")
    target = write_model(graph, context.work_directory / "fewer_heads.onnx")
    reference = write_model(silenced, context.work_directory / "silenced.onnx")
    context.report(0.9, "comparing")
    why = why_different(reference, target, tolerance=_TOLERANCE, seed=context.seed)
    context.report(1.0, "compared")
    if why:
        return context.unchanged(model, f"left as it was: without silent heads, {why}")
    return StepResult(model=target, session=context.session, modified=True, notes=tuple(notes))


def _cut(
    graph: ir.Model, silenced: ir.Model, measured: dict[str, Importances], count: int
) -> list[str]:
    """Cut heads out of one model and silence them in the other; what was done."""
    notes = []
    others = {attention.name: attention for attention in attentions(silenced.graph)}
    for attention in attentions(graph.graph):
        importances = measured.get(attention.name)
        if importances is None or len(importances) <= count:
            continue
        order = np.argsort(importances, kind="stable")
        gone, kept = sorted(order[:count]), sorted(order[count:])
        width = len(attention.out.weight) // len(importances)
        keep_heads(attention, kept, width)
        silence_heads(others[attention.name], gone, width)
        notes.append(f"{attention.name}: left out {_listed(gone, importances)}")
    return notes


def _listed(gone: list[int], importances: Importances) -> str:
    share = importances / max(float(importances.sum()), np.finfo(np.float64).tiny)
    heads = ", ".join(f"{head} ({share[head]:.1%})" for head in gone)
    return f"{len(gone)} of {len(importances)} heads, by share of importance: {heads}"


def _measure(model: Path, step: DropHeads, context: StepContext) -> dict[str, Importances]:
    """Name of an attention → importance of its heads; none where its parts do not fit together."""
    graph = read_model(model)
    found = attentions(graph.graph)
    if not found:
        return {}
    path = calibration_file(context, "drop_heads")
    values = [value for attention in found for value in _watched(attention)]
    names = [str(value.name) for value in values]
    shown = show(graph, values, context.work_directory / "shown.onnx")
    sums: dict[str, list[Importances]] = {}
    with closing(Session(shown, SessionSpec())) as session:
        items = load_drawn(path, session.signature, step.samples, context.seed)
        done = 0
        for batch in fitting_batches(items, session.signature, _BATCH):
            context.report(0.8 * done / item_count(items), "measuring importance")
            seen = dict(zip(names, session.run(batch, names), strict=True))
            for attention in found:
                importances = _importances(attention, seen)
                if importances is not None:
                    sums.setdefault(attention.name, []).append(importances)
            done += item_count(batch)
    return {name: np.sum(each, axis=0) for name, each in sums.items()}


def _watched(attention: Attention) -> list[ir.Value]:
    """Q, K and V of all heads, and what all heads give."""
    return [*(part.reshape.outputs[0] for part in attention.parted), attention.out.source]


def _importances(attention: Attention, seen: Arrays) -> Importances | None:
    """Of one batch's heads; None where Q, K and V are not [items, tokens, heads, width] alike."""
    *parted, given = (seen[str(value.name)] for value in _watched(attention))
    if {array.ndim for array in parted} != {4} or len({each.shape[2:] for each in parted}) != 1:
        return None
    heads, width = parted[0].shape[2:]
    if given.ndim != 3 or given.shape[2] != heads * width:
        return None
    rows = [columns([head], width) for head in range(heads)]
    added: list[NDArray[Any]] = [given[..., each] @ attention.out.weight[each] for each in rows]
    return np.array([np.linalg.norm(each, axis=-1).mean() * len(given) for each in added])
