"""The fewest bytes that a model's weights can take after any recipe of a search.

A lower bound, so that what is called impossible is: weights of layers and of embeddings count,
with as few channels, as low a rank and as few bits as the declarations of the steps allow;
biases, scales and the graph itself count nothing. That `merge` might make one of two linear layers
with nothing between them is not looked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from optimizers.contract.declaration import Choice, Need, Real, Value
from optimizers.contract.evidence import Evidence, Layer
from optimizers.contract.search import Search
from optimizers.contract.steps import STEPS_BY_NAME

_STORED_BITS: Final = 32
_BF16: Final = "bf16"
_CUTS: Final = ("prune_channels", "low_rank", "drop_layers", "drop_heads")
_LEAST_BITS: Final = 2
"""No kernel of onnxruntime's takes fewer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Smallest:
    """What is left at least.

    Attributes:
        size_bytes: Of all weights together.
        text: How it was reckoned, for people.
    """

    size_bytes: float
    text: str


@dataclass(frozen=True, slots=True)
class _Bits:
    """How a step stores weights: of products, of convolutions, of embeddings."""

    products: int = _STORED_BITS
    convolutions: int = _STORED_BITS
    embeddings: int = _STORED_BITS


def smallest_weights(evidence: Evidence, search: Search | None = None) -> Smallest:
    """The fewest bytes of weights after any recipe.

    Args:
        evidence: What is known of the model; its weights are taken to have 32 bits.
        search: What may be tried; None: every step with all that it declares.
    """
    allowed = [name for name in STEPS_BY_NAME if _may_be_tried(name, evidence, search)]

    def values(parameter: str) -> tuple[Value, ...]:
        step, _, name = parameter.partition(".")
        given = {} if search is None else search.values
        declared = STEPS_BY_NAME[step].declares.ranges
        found = given.get(parameter, declared.get(name))
        if found is None:
            return ()
        return found.values if isinstance(found, Choice) else _ends(found)

    kept = _kept(allowed, values, evidence)
    numbers = {"none of them": _Bits()} | {
        name: bits for name in allowed if (bits := _bits(name, values)) is not None
    }
    totals = {name: _bytes(evidence, bits, kept) for name, bits in numbers.items()}
    name, fewest = min(totals.items(), key=lambda pair: pair[1])
    cut = [step for step in _CUTS if step in allowed]
    after = f" after {' and '.join(cut)} at their most" if cut else ""
    return Smallest(size_bytes=fewest, text=f"fewest bits by {name}{after}")


def _may_be_tried(name: str, evidence: Evidence, search: Search | None) -> bool:
    if search is not None and search.steps and name not in search.steps:
        return False
    declares = STEPS_BY_NAME[name].declares
    if Need.CALIBRATION in declares.needs and "calibration" not in evidence.data:
        return False
    if Need.TRAINING in declares.needs and "train" not in evidence.data:
        return False
    if name == "drop_layers":
        return evidence.residual_blocks > 0
    if name == "drop_heads":
        return bool(evidence.attention_heads)
    return name != _BF16 or evidence.provider in ("cuda", "tensorrt")


def _bits(name: str, values: Callable[[str], tuple[Value, ...]]) -> _Bits | None:
    """How a step stores weights; None for one that does not make them narrower."""
    match name:
        case "fp16" | "bf16":
            return _Bits(16, 16, 16)
        case "static_int8" | "quantize_aware":
            return _Bits(8, 8, _STORED_BITS)
        case "dynamic_int8":
            return _Bits(8, 8, 8 if True in values("dynamic_int8.embeddings") else _STORED_BITS)
        case "weights_nbits":
            bits = int(min(_numbers(values("weights_nbits.bits")), default=_LEAST_BITS))
            embeddings = True in values("weights_nbits.embeddings")
            return _Bits(bits, _STORED_BITS, bits if embeddings else _STORED_BITS)
        case "binarize" | "ternarize":
            return _Bits(_LEAST_BITS, _STORED_BITS, _STORED_BITS)
    return None


def _kept(
    allowed: Iterable[str], values: Callable[[str], tuple[Value, ...]], evidence: Evidence
) -> Callable[[Layer], float]:
    """The fewest weights of a layer that any recipe leaves."""
    steps = set(allowed)
    side = 1.0
    if "prune_channels" in steps:
        # Sensitivity takes up to (1 + ratio) / 2 of a group, and rounding to the nearest
        # multiple, at least one of them, leaves at least two thirds of what is left.
        side = (1 - max(_numbers(values("prune_channels.ratio")), default=0.0)) / 3
    heads = 1.0
    if "drop_heads" in steps:
        heads = 1 / max(evidence.attention_heads)  # one always stays

    def kept(layer: Layer) -> float:
        if "drop_layers" in steps:
            return 0.0  # which layers lie in the blocks that go is not known
        shape = layer.weight_shape
        rows, columns = shape[0] * side, math.prod(shape[1:]) * side
        numbers = rows * columns
        if "low_rank" in steps and math.prod(shape[2:]) == 1:
            numbers = min(numbers, rows + columns)
        return numbers * heads

    return kept


def _bytes(evidence: Evidence, bits: _Bits, kept: Callable[[Layer], float]) -> float:
    counted = sum(math.prod(layer.weight_shape) for layer in evidence.layers)
    if 4 * counted + evidence.embedding_bytes > evidence.weight_bytes:
        return 0.0  # some are shared, or have fewer than 32 bits as they are
    of_layers = sum(
        kept(layer) * (bits.convolutions if layer.operator == "Conv" else bits.products)
        for layer in evidence.layers
    )
    of_embeddings = evidence.embedding_bytes * bits.embeddings / _STORED_BITS
    return of_layers / 8 + of_embeddings


def _numbers(values: Iterable[Value]) -> list[float]:
    return [float(one) for one in values if isinstance(one, int | float)]


def _ends(one: Real) -> tuple[float, float]:
    return one.low, one.high
