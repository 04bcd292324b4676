"""Channel pruning: whole channels, neurons and attention heads leave the graph.

Channels that have to go together (see `flow.analysis`) form groups. Of every group with n channels
the n' most important stay, n' = n (1 - ratio) rounded to a multiple of `round_to` places.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnx

from optimizers.contract.errors import InvalidData
from optimizers.contract.pruning import PruneChannels
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.graph import check_excluded, load_named, operator_names
from optimizers.macs import count_macs
from optimizers.pruning.cut import cut
from optimizers.pruning.flow.analysis import analyse
from optimizers.pruning.flow.elements import Labels
from optimizers.pruning.flow.use import Flow
from optimizers.pruning.groups import Group, find_groups, kept_for_a_reason
from optimizers.pruning.importance import Scores, activation_importance, weight_importance
from optimizers.pruning.sensitivity import Probe, change, share_out
from optimizers.step import StepContext, StepResult

_OPERATORS: Final = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def apply(model: Path, step: PruneChannels, context: StepContext) -> StepResult:
    """Take the least important channels out; see `optimizers.step`."""
    context.report(0.0, "following the channels")
    check_excluded("prune_channels", step.exclude, operator_names(model, _OPERATORS))
    loaded = load_named(model)
    flow = analyse(loaded, step.exclude)
    groups = find_groups(flow)
    left_alone = tuple(f"left alone: {name}, {why}" for name, why in kept_for_a_reason(flow))
    probe = _probe(model, step, context)
    scores = _scores(loaded, flow, groups, step, probe)
    context.report(0.2, f"{len(groups)} groups of channels")
    ratios = _ratios(loaded, flow, groups, scores, step, probe, context)
    kept = [group.kept(ratio, step.round_to) for group, ratio in zip(groups, ratios, strict=True)]
    removed = _least(groups, scores, kept)
    if len(removed) == 0:
        why = "no channel can be taken out" if not groups else _whole(groups, kept, step)
        return _unchanged(model, context, (why, *left_alone))
    pruned = cut(loaded, flow, removed)
    target = context.work_directory / "pruned_channels.onnx"
    onnx.save(pruned, str(target))
    Session(target, SessionSpec()).close()
    before, after = count_macs(loaded), count_macs(pruned)
    sizes = loaded.ByteSize(), pruned.ByteSize()
    context.report(1.0, "pruned")
    if after >= before or sizes[1] >= sizes[0]:
        note = f"without some channels it would still take {after} of {before} MACs; left as it is"
        return _unchanged(model, context, (note, *left_alone))
    first = (
        f"took {sum(group.count for group in groups) - sum(kept)} of "
        f"{sum(group.count for group in groups)} channels out of {len(groups)} groups: "
        f"{before} → {after} MACs, {sizes[0]} → {sizes[1]} bytes"
    )
    notes = (first, *_groups(groups, kept), *_aside(groups, kept, step, probe), *left_alone)
    return StepResult(model=target, session=context.session, modified=True, notes=notes)


def _probe(model: Path, step: PruneChannels, context: StepContext) -> Probe | None:
    data = context.data.get("calibration")
    if data is None:
        return None
    return Probe(model, data, step.samples, context.work_directory)


def _scores(
    model: onnx.ModelProto,
    flow: Flow,
    groups: Sequence[Group],
    step: PruneChannels,
    probe: Probe | None,
) -> list[Scores]:
    if step.importance != "activation":
        return [weight_importance(flow, group, step.importance) for group in groups]
    if probe is None:
        raise InvalidData(
            "prune_channels with importance activation needs calibration data: name an .npz as "
            "data.calibration in hone.yaml"
        )
    strengths = probe.strengths(model, flow)
    found = [activation_importance(flow, group, strengths) for group in groups]
    return [
        scores if scores.any() else weight_importance(flow, group, "l2")
        for group, scores in zip(groups, found, strict=True)
    ]


def _ratios(
    model: onnx.ModelProto,
    flow: Flow,
    groups: Sequence[Group],
    scores: Sequence[Scores],
    step: PruneChannels,
    probe: Probe | None,
    context: StepContext,
) -> list[float]:
    """The same for every group; with calibration data less where it changes the answers more."""
    if probe is None or not step.sensitivity:
        return [step.ratio] * len(groups)
    original, changes = probe.answers(model), []
    for done, (group, own) in enumerate(zip(groups, scores, strict=True)):
        context.report(0.2 + 0.7 * done / len(groups), f"trying without some of {group.name}")
        removed = _least([group], [own], [group.kept(step.ratio, 0)])
        changes.append(change(original, probe.answers(cut(model, flow, removed))))
    return share_out(step.ratio, changes)


def _least(groups: Sequence[Group], scores: Sequence[Scores], kept: Sequence[int]) -> Labels:
    """Roots of the channels with the smallest scores."""
    found = [
        group.roots[np.argsort(own, kind="stable")[: group.count - count]]
        for group, own, count in zip(groups, scores, kept, strict=True)
    ]
    return np.concatenate(found) if found else np.array([], np.int64)


def _groups(groups: Sequence[Group], kept: Sequence[int]) -> list[str]:
    return [
        f"{group.name}: {group.count} → {count} channels"
        + (f" of {group.width} places" if group.width > 1 else "")
        for group, count in zip(groups, kept, strict=True)
        if count < group.count
    ]


def _aside(
    groups: Sequence[Group], kept: Sequence[int], step: PruneChannels, probe: Probe | None
) -> list[str]:
    found = []
    if any(count == group.count for group, count in zip(groups, kept, strict=True)):
        found.append(_whole(groups, kept, step))
    if probe is not None and step.sensitivity:
        found.append(f"shared out by how far the answers to {probe.count} items moved")
    return found


def _whole(groups: Sequence[Group], kept: Sequence[int], step: PruneChannels) -> str:
    names = [
        f"{group.name} ({group.count})"
        for group, count in zip(groups, kept, strict=True)
        if count == group.count
    ]
    rounding = f"round_to {step.round_to}" if step.round_to else f"ratio {step.ratio}"
    return f"left whole by {rounding}: {', '.join(names)}"


def _unchanged(model: Path, context: StepContext, notes: tuple[str, ...]) -> StepResult:
    return StepResult(model=model, session=context.session, modified=False, notes=notes)
