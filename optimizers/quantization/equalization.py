"""Cross-layer equalisation (Nagel et al. 2019, arXiv 1906.04721): channels get like ranges.

Between two layers with f(s x) = s f(x) in between, channel i of the first may be divided and that
of the second multiplied by any s_i > 0. With r1_i and r2_i the largest weights of channel i,
s_i = (1 / r2_i) sqrt(r1_i r2_i) makes both ranges sqrt(r1_i r2_i), the best for one scale a tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from optimizers.quantization.layer_pair import Pair
from optimizers.quantization.scalable_pairs import scalable_pairs
from optimizers.saving import save

Weights = dict[str, NDArray[np.float64]]

_MOST_ROUNDS: Final = 30
_SETTLED: Final = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Equalized:
    """What was done.

    Attributes:
        pairs: Pairs of layers whose channels were scaled.
        bounded: Pairs that were left alone because a Clip with an upper bound lies between.
        rounds: Passes over all pairs until nothing moved by more than a thousandth.
        spread: Largest over smallest weight range of a channel within the pairs' layers: the
            median of all layers before and after.
    """

    pairs: int
    bounded: int
    rounds: int
    spread: tuple[float, float]

    def __str__(self) -> str:
        left = f", {self.bounded} pairs with a bounded Clip between left alone"
        if self.pairs == 0:
            return f"equalised no pair of layers{left if self.bounded else ''}"
        before, after = self.spread
        return (
            f"equalised {self.pairs} pairs of layers in {self.rounds} rounds, channel ranges "
            f"{before:.3g} apart before and {after:.3g} after{left if self.bounded else ''}"
        )


def equalize(model: Path, target: Path) -> Equalized:
    """Scale channels between consecutive layers; the answers stay the same up to rounding.

    Args:
        model: The model as `prepare` left it.
        target: Where the scaled copy goes; may be `model` itself.
    """
    loaded = onnx.load(str(model))
    pairs, bounded = scalable_pairs(loaded.graph)
    tensors = {tensor.name: tensor for tensor in loaded.graph.initializer}
    names = {name for pair in pairs for name in pair.tensors}
    weights = {name: numpy_helper.to_array(tensors[name]).astype(np.float64) for name in names}
    before = _spread(weights, pairs)
    rounds = 0
    while pairs and rounds < _MOST_ROUNDS:
        rounds += 1
        if max(scale_pair(weights, pair) for pair in pairs) < _SETTLED:
            break
    for name, weight in weights.items():
        tensors[name].CopyFrom(numpy_helper.from_array(weight.astype(np.float32), name))
    save(loaded, target)
    after = _spread(weights, pairs)
    return Equalized(pairs=len(pairs), bounded=bounded, rounds=rounds, spread=(before, after))


def scale_pair(weights: Weights, pair: Pair) -> float:
    """Equalise one pair in place.

    Returns:
        The largest |s_i - 1|; 0 where the pair was equal already.
    """
    first, second = pair.outputs_first(weights), pair.inputs_by_group(weights)
    r1 = np.abs(first).max(axis=1)
    r2 = np.abs(second).max(axis=(1, 3)).reshape(-1)
    alive = (r1 > 0) & (r2 > 0)
    s = np.ones_like(r1)
    s[alive] = np.sqrt(r1[alive] * r2[alive]) / r2[alive]
    first /= s[:, None]
    second *= s.reshape(second.shape[0], 1, second.shape[2], 1)
    if pair.bias:
        bias = weights[pair.bias]
        bias /= s.reshape(bias.shape)
    return float(np.abs(s - 1).max())


def _spread(weights: Weights, pairs: tuple[Pair, ...]) -> float:
    spreads = []
    for pair in pairs:
        ranges = np.abs(pair.outputs_first(weights)).max(axis=1)
        spreads.append(ranges.max() / max(ranges[ranges > 0].min(initial=np.inf), 1e-30))
    return float(np.median(spreads)) if spreads else 1.0
