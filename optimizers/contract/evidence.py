"""What a look at a model found, before anything was done to it: what a planner goes by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from optimizers.contract.host import Host
from optimizers.contract.profile import Task
from optimizers.contract.recipe import StoredRecipe


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorShare:
    """What the nodes of one operator take, as the runtime ran them.

    Attributes:
        operator: Its name in the model as delivered, for example `Conv`.
        share: Of the time of all nodes, in [0, 1].
        nodes: How many there are.
        weight_bytes: Of the constants that they read.
    """

    operator: str
    share: float
    nodes: int
    weight_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One convolution or matrix product.

    Attributes:
        name: Of its node.
        operator: Conv, Gemm or MatMul.
        weight_shape: As stored.
        groups: Of a convolution, else 1.
        share: Of the time of all nodes, in [0, 1]; 0 where the runtime fused it out of sight.
    """

    name: str
    operator: str
    weight_shape: tuple[int, ...]
    groups: int
    share: float

    @property
    def is_depthwise(self) -> bool:
        """Whether it is a convolution of which every output sees one channel."""
        return self.groups > 1 and self.groups == self.weight_shape[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of a model on this machine.

    Attributes:
        operators: Largest share first.
        layers: In the model's order.
        weight_bytes: Of all constants.
        embedding_bytes: Of tables that a Gather picks rows from; part of `weight_bytes`.
        activation_bytes: Of all tensors between nodes, of one item.
        item_s: Median seconds of one run of one item, by the runtime's clock.
        batch_item_s: Median seconds of an item among `batch` in one run; equal to `item_s` where
            items cannot be joined.
        batch: See `batch_item_s`.
        outside_share: Share of a run's time that is spent outside of nodes, in [0, 1]; large for
            models so small that starting a run costs more than the run.
        attention_heads: Heads of each attention found.
        residual_blocks: How many blocks of the form x + f(x) could be left out.
        has_batch_norm: Whether a batch normalisation is left.
        task: What its answers are.
        data: calibration, train, search, gate → how many items, where declared.
        has_labels: Whether the training data has labels.
        host: The machine.
        provider: Who computes.
        weight_bits: Of one number, in the width that most bytes of weights have.
    """

    operators: tuple[OperatorShare, ...]
    layers: tuple[Layer, ...]
    weight_bytes: int
    embedding_bytes: int
    activation_bytes: int
    item_s: float
    batch_item_s: float
    batch: int
    outside_share: float
    attention_heads: tuple[int, ...]
    residual_blocks: int
    has_batch_norm: bool
    task: Task
    host: Host
    provider: str
    data: Mapping[str, int] = field(default_factory=dict)
    has_labels: bool = False
    weight_bits: int = 32

    def share_of(self, *operators: str) -> float:
        """Share of the time that the nodes of some operators take together."""
        return sum(one.share for one in self.operators if one.operator in operators)

    def bytes_of(self, *operators: str) -> int:
        """Bytes of the constants that the nodes of some operators read."""
        return sum(one.weight_bytes for one in self.operators if one.operator in operators)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A recipe that the evidence speaks for.

    Attributes:
        recipe: What to try.
        reason: Why, with the numbers it rests on: `Conv is 83 % of the time, channels 64…256`.
    """

    recipe: StoredRecipe
    reason: str
