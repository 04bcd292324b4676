"""What the evidence means for one goal: the aim, what takes time or bytes, how much is asked.

The limits between kinds come from what the steps gained on the reference models (docs/gains.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from statistics import median
from typing import Final, Literal

from optimizers.contract.declaration import FASTER, TRUER
from optimizers.contract.evidence import Evidence
from optimizers.contract.goal import FigureName, Goal, Relation, Requirement
from optimizers.contract.search import Search

_LAUNCH: Final = 0.1
"""Share of a run outside of nodes. Above it there is little to save: int8 slowed such nets down."""
_JOINED: Final = 0.5
"""An item in a batch below this share of an item alone: starting runs is shared out."""

CONVOLUTIONS: Final = ("Conv", "ConvTranspose")
PRODUCTS: Final = ("MatMul", "Gemm")

_NARROW: Final = ("Quantize", "Integer", "NBits", "QLinear")
"""In the name of every operator that works on narrow numbers."""

_MUCH: Final = 0.3
_FEW_CHANNELS: Final = 8
_DEPTHWISE: Final = 0.1
_GATES: Final = ("HardSigmoid", "HardSwish", "Sigmoid", "Silu", "Swish")
_MANY_GATES: Final = 0.25
_HALF_BITS: Final = 16
_LATENCIES: Final = frozenset({FigureName.LATENCY_P50, FigureName.LATENCY_P99})


class Aim(Enum):
    """What the goal's first figure asks of a recipe."""

    SPEED = "speed"
    SIZE = "size"
    MEMORY = "memory"
    ANSWERS = "answers"


class Kind(Enum):
    """What stands between a model and the aim."""

    LAUNCH = "starting a run"
    CONVOLUTION = "convolutions"
    DEPTHWISE = "depthwise convolutions, or gates such as SiLU"
    PRODUCT = "matrix products"
    OTHER = "something else"


@dataclass(frozen=True, slots=True)
class Reading:
    """Evidence, read for a goal and a search."""

    evidence: Evidence
    goal: Goal
    search: Search

    @property
    def aim(self) -> Aim:
        """What the first figure asks for."""
        match self.goal.optimize[0]:
            case FigureName.SIZE:
                return Aim.SIZE
            case FigureName.MEMORY:
                return Aim.MEMORY
            case figure:
                return Aim.ANSWERS if figure in TRUER else Aim.SPEED

    @property
    def wants_less(self) -> bool:
        """Whether the goal names size or memory at all."""
        return not {FigureName.SIZE, FigureName.MEMORY}.isdisjoint(self.goal.figures)

    @property
    def tolerates_nothing(self) -> bool:
        """Whether a requirement leaves no answer to be lost."""
        return any(map(_tolerates_nothing, self.goal.require))

    @property
    def kind(self) -> Kind:
        """What takes most of what the aim counts; steps want weights that are floating point."""
        nothing = not self.evidence.layers and not self.evidence.embedding_bytes
        if nothing or self.is_integer:
            return Kind.LAUNCH if self.is_launch_bound else Kind.OTHER
        if self.counts_bytes:
            return self._kind_by_weight
        if self.is_launch_bound:
            return Kind.LAUNCH
        if max(self.convolutions, self.products) < _MUCH:
            return Kind.OTHER
        if self.convolutions < self.products:
            return Kind.PRODUCT
        gated = self.depthwise >= _DEPTHWISE or self.gates >= _MANY_GATES
        return Kind.DEPTHWISE if gated else Kind.CONVOLUTION

    @property
    def is_integer(self) -> bool:
        """Whether the model came with narrow weights."""
        operators = {one.operator for one in self.evidence.operators}
        return any(narrow in one for one in operators for narrow in _NARROW)

    @property
    def is_half(self) -> bool:
        """Whether the model came in floating point of 16 bits."""
        return not self.is_integer and self.evidence.weight_bits <= _HALF_BITS

    @property
    def counts_bytes(self) -> bool:
        """Whether the aim counts bytes rather than seconds."""
        return self.aim in (Aim.SIZE, Aim.MEMORY)

    @property
    def convolves(self) -> bool:
        """Whether convolutions count more than products, for the aim."""
        if self.counts_bytes:
            stored = self.evidence.bytes_of
            return stored(*CONVOLUTIONS) >= stored(*PRODUCTS)
        return self.convolutions >= self.products

    @property
    def _kind_by_weight(self) -> Kind:
        """Which steps can take the bytes away; static int8 takes those of products as well."""
        stored = {one.operator: one.weight_bytes for one in self.evidence.operators}
        return Kind.CONVOLUTION if stored.get("Conv") and not self.is_encoder else Kind.PRODUCT

    @property
    def is_encoder(self) -> bool:
        """Whether it looks like a transformer, whose activations int8 with fixed ranges ruins."""
        nodes = {one.operator: one.nodes for one in self.evidence.operators}
        softened = nodes.get("Softmax", 0) > 1  # a classifier has one, at its end
        return bool(self.evidence.attention_heads) or "LayerNormalization" in nodes or softened

    @property
    def is_launch_bound(self) -> bool:
        """Whether starting a run costs more than what steps could save in it."""
        evidence = self.evidence
        shared_out = evidence.batch_item_s < _JOINED * evidence.item_s
        if self.goal.optimize[0] not in _LATENCIES and shared_out:
            return False
        return evidence.outside_share >= _LAUNCH

    @property
    def convolutions(self) -> float:
        """Share of the time that convolutions take."""
        return self.evidence.share_of(*CONVOLUTIONS)

    @property
    def products(self) -> float:
        """Share of the time that matrix products take."""
        return self.evidence.share_of(*PRODUCTS)

    @property
    def depthwise(self) -> float:
        """Share of the time of convolutions that see one channel each."""
        return sum(one.share for one in self.evidence.layers if one.is_depthwise)

    @property
    def gates(self) -> float:
        """Sigmoids and their like, for each convolution."""
        count = {one.operator: one.nodes for one in self.evidence.operators}
        return sum(count.get(one, 0) for one in _GATES) / max(1, count.get("Conv", 0))

    @property
    def channels(self) -> list[int]:
        """Channels that each convolution gives, sorted."""
        return sorted(one.weight_shape[0] for one in self.evidence.layers if one.operator == "Conv")

    @property
    def blocks_of(self) -> Literal[8, 16]:
        """Channels that a blocked convolution computes at once on this processor."""
        return 16 if "avx512f" in self.evidence.host.cpu_features else 8

    @property
    def round_to(self) -> Literal[4, 8, 16]:
        """What channels kept should be a multiple of, one of 4, 8 and 16."""
        channels = self.channels
        if channels and channels[0] < _FEW_CHANNELS:
            return 4
        many = channels and median(channels) >= 4 * self.blocks_of
        return self.blocks_of if many else 8

    @property
    def table_share(self) -> float:
        """Share of the weights that lies in tables of embeddings."""
        return self.evidence.embedding_bytes / max(1, self.evidence.weight_bytes)

    @property
    def time_wanted(self) -> float | None:
        """Share of the present time that the goal leaves, in [0, 1); None: it names none."""
        return _least(self._time_wanted(one) for one in self._wishes if one.figure in FASTER)

    @property
    def size_wanted(self) -> float | None:
        """Share of the present size that the goal leaves, in [0, 1); None: it names none."""
        return _least(
            _share_left(one, self.evidence.weight_bytes)
            for one in self._wishes
            if one.figure is FigureName.SIZE
        )

    @property
    def _wishes(self) -> tuple[Requirement, ...]:
        return (*self.goal.require, *self.goal.stop_when)

    def _time_wanted(self, wish: Requirement) -> float | None:
        if wish.figure is FigureName.THROUGHPUT:
            return 1 / (1 + wish.limit) if wish.relation is Relation.RELATIVE_GAIN else None
        present = self.evidence.item_s if wish.figure in _LATENCIES else 0.0
        return _share_left(wish, present)


def _share_left(wish: Requirement, present: float) -> float | None:
    """What a wish for less leaves of a figure; None where it asks for nothing less than `present`.

    Args:
        wish: Of a figure that is better when lower.
        present: The figure now; 0 where it is not known.
    """
    match wish.relation:
        case Relation.RELATIVE_GAIN:
            left = 1 - wish.limit
        case Relation.ABSOLUTE if present:
            left = wish.limit / present
        case Relation.GAIN if present:
            left = 1 - wish.limit / present
        case _:
            return None
    return max(0.0, left) if left < 1 else None


def _least(shares: Iterable[float | None]) -> float | None:
    return min((one for one in shares if one is not None), default=None)


def _tolerates_nothing(one: Requirement) -> bool:
    match one.figure, one.relation:
        case FigureName.ACCURACY, Relation.LOSS | Relation.RELATIVE_LOSS:
            return one.limit <= 0
        case FigureName.AGREEMENT | FigureName.COSINE, Relation.ABSOLUTE:
            return one.limit >= 1
    return False
