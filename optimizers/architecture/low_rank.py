"""Low rank: W = U diag(s) V^T becomes A B with A = U_r diag(sqrt(s_r)), B = diag(sqrt(s_r)) V_r^T.

No matrix of rank r is nearer to W: ||W - A B||^2 is the sum of s_i^2 over i > r (Eckart and Young,
1936).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizers.architecture.proof import why_unusable
from optimizers.contract.architecture import LowRank
from optimizers.graph import check_excluded
from optimizers.step import StepContext, StepResult
from optimizers.structure.affine import Affine, affine_maps, write_affine
from optimizers.structure.convolution import Convolution, convolutions, write_convolution
from optimizers.structure.editing import read_model, take_over, write_model


@dataclass(frozen=True, slots=True)
class Factors:
    """W ~ left right.

    Attributes:
        left: A, float64 [m, r].
        right: B, float64 [r, n].
        error: ||W - A B|| / ||W||, in Frobenius' norm.
    """

    left: NDArray[np.float64]
    right: NDArray[np.float64]
    error: float

    @property
    def rank(self) -> int:
        """The common side of both, r."""
        return len(self.right)

    @property
    def macs(self) -> int:
        """Multiplications for one row."""
        return self.left.size + self.right.size


def apply(model: Path, step: LowRank, context: StepContext) -> StepResult:
    """Factor every weight that gains; see `optimizers.step`."""
    context.report(0.0, "looking for weights")
    graph = read_model(model)
    layers = _layers(affine_maps(graph.graph) + convolutions(graph.graph))
    check_excluded("low_rank", step.exclude, list(layers))
    factored, notes = _factor(layers, step, context)
    context.report(1.0, "factored")
    if not factored:
        notes.insert(0, f"none of {len(layers)} weights was factored")
        return context.unchanged(model, *notes)
    target = write_model(graph, context.work_directory / "low_rank.onnx")
    why = why_unusable(target)
    if why:
        return context.unchanged(model, f"left as it was: {why}")
    return StepResult(model=target, session=context.session, modified=True, notes=tuple(notes))


def _factor(
    layers: dict[str, Affine | Convolution], step: LowRank, context: StepContext
) -> tuple[int, list[str]]:
    """Factor what gains; how many that were, and a note about each.

    A weight that others read stays as it is: it would have to be kept besides its factors.
    """
    notes, factored = [], 0
    shared = {name for name, layer in layers.items() if layer.shares_weight}
    for index, (name, layer) in enumerate(layers.items()):
        context.report(0.9 * index / len(layers), name)
        if name in step.exclude:
            notes.append(f"left alone as asked: {name}")
            continue
        if name in shared:
            notes.append(f"left alone, for other nodes read its weight: {name}")
            continue
        weight = _matrix(layer)
        factors = factor(weight, step)
        notes.append(f"{name}: {_described(factors, weight)}")
        if factors.macs < weight.size:
            _replace(layer, factors)
            factored += 1
    return factored, notes


def factor(weight: NDArray[Any], step: LowRank) -> Factors:
    """The nearest product of two factors with the rank that a step asks for.

    Args:
        weight: W [m, n].
        step: How to choose the rank r, at least 1.
    """
    u, s, vt = np.linalg.svd(weight.astype(np.float64), full_matrices=False)
    energy = np.cumsum(s**2)
    if step.by == "rank":
        rank = ceil(step.keep * len(s))
    else:
        rank = int(np.searchsorted(energy, step.keep * energy[-1])) + 1
    root = np.sqrt(s[:rank])
    dropped = np.sqrt(np.sum(s[rank:] ** 2) / max(energy[-1], np.finfo(np.float64).tiny))
    return Factors(u[:, :rank] * root, root[:, None] * vt[:rank], float(dropped))


def _described(factors: Factors, weight: NDArray[Any]) -> str:
    rank = f"rank {factors.rank} of {min(weight.shape)}"
    if factors.macs >= weight.size:
        return f"{rank} would save nothing"
    share = factors.macs / weight.size
    return f"{rank}, relative error {factors.error:.3f}, {share:.0%} of its multiplications"


def _layers(found: list[Affine | Convolution]) -> dict[str, Affine | Convolution]:
    """What can be factored, by its node's name."""
    return {layer.name: layer for layer in found if isinstance(layer, Affine) or layer.is_pointwise}


def _matrix(layer: Affine | Convolution) -> NDArray[Any]:
    """W [m, n]: channels in by channels out."""
    if isinstance(layer, Affine):
        return layer.weight
    return layer.kernel.reshape(len(layer.kernel), -1).T


def _replace(layer: Affine | Convolution, factors: Factors) -> None:
    if isinstance(layer, Affine):
        inner = write_affine(layer, layer.source, factors.left, None, f"{layer.name}.left")
        result = write_affine(layer, inner, factors.right, layer.bias, f"{layer.name}.right")
        take_over(layer.result, result)
        return
    shape = (-1, factors.rank, *[1] * (layer.kernel.ndim - 2))
    # Places are skipped first: the second factor then has less to do.
    inner = write_convolution(
        layer.node,
        layer,
        factors.left.T.reshape(factors.rank, -1, *shape[2:]),
        None,
        name=f"{layer.name}.left",
    )
    result = write_convolution(
        layer.node,
        layer,
        factors.right.T.reshape(shape),
        layer.bias,
        name=f"{layer.name}.right",
        source=inner,
        strides=[1] * len(shape[2:]),
    )
    take_over(layer.result, result)
