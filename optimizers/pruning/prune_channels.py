"""Channel pruning: whole channels, neurons and attention heads leave the graph.

Channels that have to go together (see `flow.analysis`) form groups. Of every group with n channels
the n' most important stay, n' = n (1 - ratio) rounded to a multiple of `round_to` places.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import onnx

from optimizers.contract.errors import NotSupported
from optimizers.contract.pruning import PruneChannels
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.graph import check_excluded, load_with_constants, operator_names
from optimizers.macs import count_macs
from optimizers.pruning.cut import cut
from optimizers.pruning.flow.analysis import analyse
from optimizers.pruning.groups import kept_for_a_reason
from optimizers.pruning.plan import Plan, make_plan
from optimizers.pruning.sensitivity import Probe, broken, change
from optimizers.pruning.slopes import weight_slopes
from optimizers.saving import save
from optimizers.step import StepContext, StepResult

_OPERATORS: Final = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def apply(model: Path, step: PruneChannels, context: StepContext) -> StepResult:
    """Take the least important channels out; see `optimizers.step`.

    Raises:
        InvalidData: The importance that was asked for needs data which is not there.
        NotSupported: Importance taylor, and the graph cannot be trained or its loss is flat.
    """
    context.report(0.0, "following the channels")
    check_excluded("prune_channels", step.exclude, operator_names(model, _OPERATORS))
    loaded = load_with_constants(model)
    flow = analyse(loaded, step.exclude)
    probe = _probe(model, step, context)
    taylor = step.importance == "taylor"
    slopes = weight_slopes(loaded, step.samples, context) if taylor else {}
    plan = make_plan(
        loaded,
        flow,
        step,
        probe,
        slopes,
        lambda share, text: context.report(0.1 + 0.8 * share, text),
    )
    left = (*plan.whole(), *(f"left alone: {name}, {why}" for name, why in kept_for_a_reason(flow)))
    if not len(plan.removed()):
        return context.unchanged(model, *left, "no channel was taken out")
    pruned = cut(loaded, flow, plan.removed())
    target = context.work_directory / "pruned_channels.onnx"
    save(pruned, target)
    Session(target, SessionSpec()).close()
    saved = _saved(loaded, pruned)
    notes = (*_told(plan, saved), *_moved(loaded, pruned, step, probe), *left)
    context.report(1.0, "pruned")
    if not saved[0][1] < saved[0][0] or not saved[1][1] < saved[1][0]:
        return context.unchanged(model, "that saves nothing and was left", *notes)
    return StepResult(model=target, session=context.session, modified=True, notes=notes)


def _probe(model: Path, step: PruneChannels, context: StepContext) -> Probe | None:
    data = context.data.get("calibration")
    if data is None:
        return None
    return Probe(model, data, step.samples, context.work_directory, context.seed)


def _saved(
    model: onnx.ModelProto, pruned: onnx.ModelProto
) -> tuple[tuple[int, int], tuple[int, int]]:
    """MACs and bytes, each before and after."""
    return (count_macs(model), count_macs(pruned)), (model.ByteSize(), pruned.ByteSize())


def _told(plan: Plan, saved: tuple[tuple[int, int], tuple[int, int]]) -> Iterator[str]:
    gone, every = plan.counts()
    macs, sizes = (f"{before} → {after}" for before, after in saved)
    yield (
        f"took {gone} of {every} channels out of {len(plan.groups)} groups: {macs} MACs, "
        f"{sizes} bytes"
    )
    yield from plan.narrowed()


def _moved(
    model: onnx.ModelProto, pruned: onnx.ModelProto, step: PruneChannels, probe: Probe | None
) -> Iterator[str]:
    """How far the answers to calibration items moved, before any training.

    Raises:
        NotSupported: Some became infinite or no numbers at all that were not before.
    """
    if probe is None:
        return
    before, after = probe.answers(model), probe.answers(pruned)
    if broken(before, after):
        raise NotSupported("prune_channels: the pruned model's answers are not finite")
    moved = change(before, after)
    if np.isfinite(moved):
        yield (
            f"the answers to {probe.count} items moved by {moved:.3g} of their size, before "
            f"training"
        )
    else:
        yield f"some answers to {probe.count} items were infinite and are not now"
    if step.sensitivity:
        yield "groups that move them more lost less"
