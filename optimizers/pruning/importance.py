"""How important every channel of a group is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from optimizers.pruning.flow.use import Flow
from optimizers.pruning.groups import Group, Member

Scores = NDArray[np.float64]
"""One number for every channel of a group; the smallest go first."""

_MULTIPLYING: Final = (
    "BatchNormalization",
    "Conv",
    "ConvTranspose",
    "Gemm",
    "InstanceNormalization",
    "MatMul",
)
"""Operators whose second input is multiplied by, even one that is as narrow as a vector."""


def weight_importance(flow: Flow, group: Group, norm: Literal["l1", "l2"]) -> Scores:
    """Sum over the group's members of the norm of what a channel has there.

    I_c = sum over members m of |W_m[c]|_1, or of |W_m[c]|_2 (Li et al. 2017, arXiv 1608.08710).
    Members are weights and scales; what only shifts (biases, means) or divides (variances) is not
    counted.
    """
    scores = np.zeros(group.count)
    shifts = _shifts(flow)
    for member in group.members:
        if member.constant not in shifts:
            scores += _norms(flow.constants[member.constant], member, group.count, norm)
    return scores


def activation_importance(
    flow: Flow, group: Group, strengths: Mapping[tuple[str, int], NDArray[np.float64]]
) -> Scores:
    """What a channel contributes to the layers that read it.

    I_c = sum over layers that read c of rms(x_c) |W[c]|_2, with rms over calibration items and
    places (Wanda's score, Sun et al. 2023, arXiv 2306.11695, for whole channels).

    Args:
        flow: The model's channels.
        group: Some of them.
        strengths: (tensor, axis) → rms of what is at every place along the axis.

    Returns:
        The scores; all 0 where no layer with a constant weight reads the group.
    """
    members = {(member.constant, member.axis): member for member in group.members}
    scores = np.zeros(group.count)
    for layer in flow.layers:
        tensor, axis, weight_axis = layer.reads
        member = members.get((layer.weight, weight_axis))
        if member is None or (tensor, axis) not in strengths:
            continue
        strength = strengths[tensor, axis]
        weight = np.moveaxis(flow.constants[layer.weight].astype(np.float64), weight_axis, 0)
        if len(strength) != len(weight):  # a convolution in groups reads other channels as well
            continue
        norms = np.sqrt((weight.reshape(len(weight), -1) ** 2).sum(axis=1))
        mine = member.channels >= 0
        scores += np.bincount(
            member.channels[mine], (strength * norms)[mine], minlength=group.count
        )
    return scores


def taylor_importance(
    flow: Flow, group: Group, slopes: Mapping[str, NDArray[np.float64]]
) -> Scores:
    """How far the loss moves without a channel, to first order.

    I_c = sum over members m and over their weights w of channel c of |w dL/dw| (Molchanov et al.
    2019, arXiv 1906.10771, before its square; 2017, arXiv 1611.06440, has it for activations).

    Args:
        flow: The model's channels.
        group: Some of them.
        slopes: Stored tensor → |w dL/dw| of its numbers; members that are not there, such as
            running variances, are not counted.
    """
    scores = np.zeros(group.count)
    for member in group.members:
        found = slopes.get(member.constant)
        if found is not None and found.shape == flow.constants[member.constant].shape:
            scores += _norms(found, member, group.count, "l1")
    return scores


def _norms(value: NDArray[Any], member: Member, count: int, norm: Literal["l1", "l2"]) -> Scores:
    rows = np.moveaxis(value.astype(np.float64), member.axis, 0).reshape(len(member.channels), -1)
    sums = np.abs(rows).sum(axis=1) if norm == "l1" else (rows**2).sum(axis=1)
    mine = member.channels >= 0
    totals = np.bincount(member.channels[mine], sums[mine], minlength=count).astype(np.float64)
    return totals if norm == "l1" else np.sqrt(totals)


def _shifts(flow: Flow) -> set[str]:
    """Vectors, but for what layers and normalisations multiply by, which are second inputs."""
    factors = {
        reader.input[1]
        for readers in flow.readers.values()
        for reader in readers
        if reader.op_type in _MULTIPLYING
    }
    return {
        name for name, value in flow.constants.items() if value.size == max(value.shape, default=1)
    } - factors
