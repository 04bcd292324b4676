"""Which channels go: how many of every group, and which."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from optimizers.contract.errors import InvalidData
from optimizers.contract.pruning import PruneChannels
from optimizers.pruning.cut import cut
from optimizers.pruning.flow.elements import Labels
from optimizers.pruning.flow.use import Flow
from optimizers.pruning.groups import Group, find_groups
from optimizers.pruning.importance import (
    Scores,
    activation_importance,
    taylor_importance,
    weight_importance,
)
from optimizers.pruning.sensitivity import Probe, change, share_out
from optimizers.pruning.slopes import Slopes


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to go.

    Attributes:
        groups: All groups of channels.
        scores: How important the channels of every group are.
        kept: How many of every group stay.
        round_to: What was rounded to.
    """

    groups: Sequence[Group]
    scores: Sequence[Scores]
    kept: Sequence[int]
    round_to: int

    def removed(self) -> Labels:
        """Roots of the channels that go, those with the smallest scores; may be empty."""
        return least_important(self.groups, self.scores, self.kept)

    def counts(self) -> tuple[int, int]:
        """How many channels go, and how many there are."""
        every = sum(group.count for group in self.groups)
        return every - sum(self.kept), every

    def narrowed(self) -> Iterator[str]:
        """What becomes of every group that loses channels."""
        for group, count in zip(self.groups, self.kept, strict=True):
            if count < group.count:
                places = f" of {group.width} places" if group.width > 1 else ""
                yield f"{group.name}: {group.count} → {count} channels{places}"

    def whole(self) -> Iterator[str]:
        """A note that names the groups that keep all their channels, if any do."""
        names = [
            f"{group.name} ({group.count})"
            for group, count in zip(self.groups, self.kept, strict=True)
            if count == group.count
        ]
        if names:
            reason = f"round_to {self.round_to}" if self.round_to else "the ratio"
            yield f"left whole by {reason}: {', '.join(names)}"


def make_plan(
    model: onnx.ModelProto,
    flow: Flow,
    step: PruneChannels,
    probe: Probe | None,
    slopes: Slopes,
    report: Callable[[float, str], None],
) -> Plan:
    """Decide what goes.

    Args:
        model: The model.
        flow: Its channels.
        step: What was asked for.
        probe: Calibration data, if there is any.
        slopes: Of the loss, for importance taylor.
        report: Takes the share of the planning that is done.

    Raises:
        InvalidData: The step needs calibration data, and there is none.
    """
    groups = find_groups(flow)
    scores = _scores(model, flow, groups, step, probe, slopes)
    ratios = [step.ratio] * len(groups)
    if probe is not None and step.sensitivity:
        original, changes = probe.answers(model), []
        for done, (group, own) in enumerate(zip(groups, scores, strict=True)):
            report(done / len(groups), f"trying without some of {group.name}")
            removed = least_important([group], [own], [group.kept(step.ratio, 0)])
            changes.append(change(original, probe.answers(cut(model, flow, removed))))
        ratios = share_out(step.ratio, changes)
    kept = [group.kept(share, step.round_to) for group, share in zip(groups, ratios, strict=True)]
    return Plan(groups=groups, scores=scores, kept=kept, round_to=step.round_to)


def least_important(
    groups: Sequence[Group], scores: Sequence[Scores], kept: Sequence[int]
) -> Labels:
    """Roots of the channels with the smallest scores of every group, all but `kept` of them."""
    found = [
        group.roots[np.argsort(own, kind="stable")[: group.count - count]]
        for group, own, count in zip(groups, scores, kept, strict=True)
    ]
    return np.concatenate(found) if found else np.array([], np.int64)


def _scores(
    model: onnx.ModelProto,
    flow: Flow,
    groups: Sequence[Group],
    step: PruneChannels,
    probe: Probe | None,
    slopes: Slopes,
) -> list[Scores]:
    if step.importance == "taylor":
        return _or_by_weights(
            flow, groups, [taylor_importance(flow, group, slopes) for group in groups]
        )
    if step.importance != "activation":
        return [weight_importance(flow, group, step.importance) for group in groups]
    if probe is None:
        raise InvalidData(
            "prune_channels with importance activation needs calibration data: name an .npz as "
            "data.calibration in hone.yaml"
        )
    strengths = probe.strengths(model, flow)
    return _or_by_weights(
        flow, groups, [activation_importance(flow, group, strengths) for group in groups]
    )


def _or_by_weights(flow: Flow, groups: Sequence[Group], found: Sequence[Scores]) -> list[Scores]:
    """Groups of which nothing is known are judged by their weights, not by their order.

    No layer with a constant weight reads such a group, or no loss depends on it.
    """
    return [
        scores if scores.any() else weight_importance(flow, group, "l2")
        for group, scores in zip(groups, found, strict=True)
    ]
