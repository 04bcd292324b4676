"""Steps that take weights or whole channels out of a model."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from optimizers.contract.declaration import (
    FASTER,
    SMALLER,
    Choice,
    Declaration,
    Effect,
    Need,
    Place,
    Real,
)
from optimizers.contract.errors import InvalidDocument
from optimizers.contract.stage import Stage
from optimizers.contract.training import TRAINING_RANGES, Training


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneWeights:
    """Set the smallest weights of convolutions and products to zero.

    Attributes:
        ratio: Share of the weights that becomes zero, in (0, 1). With a pattern, the pattern says
            it and this must be left as it is.
        scope: `layer`: the same share of every layer. `global`: the smallest of all layers
            together, each layer's weights divided by its norm first.
        norm: Of the layer that `global` divides by: l1, the mean size of a weight, or l2, its root
            mean square. Without effect inside a layer, where both order single weights alike.
        pattern: `N:M`, at most N of every M neighbours along the axis that is summed over are
            kept, such as 2:4, with 0 < N < M; empty: any.
        exclude: Names of nodes to leave alone.
    """

    ratio: float = 0.5
    scope: Literal["global", "layer"] = "layer"
    norm: Literal["l1", "l2"] = "l2"
    pattern: str = ""
    exclude: tuple[str, ...] = ()

    stage: ClassVar[Stage] = Stage.FLOAT
    declares: ClassVar[Declaration] = Declaration(
        place=Place.THIN,
        effect=Effect.LOSSY,
        improves=frozenset(),  # zeros take as long and as many bytes as other weights
        ranges={"ratio": Choice((0.5, 0.7, 0.9)), "scope": Choice(("layer", "global"))},
    )

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise InvalidDocument(f"prune_weights.ratio must be in (0, 1), got {self.ratio}")
        if self.pattern and self.kept_of is None:
            raise InvalidDocument(
                f"prune_weights.pattern must be N:M with 0 < N < M, got {self.pattern!r}"
            )
        if self.pattern and (self.ratio, self.scope) != (0.5, "layer"):
            raise InvalidDocument(
                "prune_weights.ratio and .scope must be left out with a pattern, which says how "
                f"many weights go, got ratio {self.ratio}, scope {self.scope}"
            )

    @property
    def kept_of(self) -> tuple[int, int] | None:
        """N and M of the pattern; None without one."""
        found = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", self.pattern)
        if found is None:
            return None
        kept, block = int(found[1]), int(found[2])
        return (kept, block) if kept < block else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneChannels:
    """Take the least important channels, neurons and attention heads out of the graph.

    Attributes:
        ratio: Share of the channels of every group that goes, in (0, 1), before rounding and
            sensitivity.
        importance: l1 or l2: norms of a channel's weights, summed over all layers it takes part
            in. activation: what the channel contributes to the layers that read it, measured
            on calibration data. taylor: how far the loss of training data would move without
            it, to first order.
        round_to: Channels kept are a multiple of it where possible: 8 or 16 fit the blocks that
            convolutions are computed in, other widths can be slower than the original; 4 is the
            least that blocked convolutions take. 0: any.
        sensitivity: With calibration data, take fewer channels where that changes the
            answers more.
        samples: At most so many calibration items, and for taylor training items, at least 1.
        exclude: Names of nodes whose output channels stay.
    """

    ratio: float = 0.5
    importance: Literal["l1", "l2", "activation", "taylor"] = "l2"
    round_to: Literal[0, 4, 8, 16] = 8
    sensitivity: bool = True
    samples: int = 128
    exclude: tuple[str, ...] = ()

    stage: ClassVar[Stage] = Stage.FLOAT
    declares: ClassVar[Declaration] = Declaration(
        place=Place.SHAPE,
        effect=Effect.LOSSY,
        improves=FASTER | SMALLER,
        ranges={
            "ratio": Choice((0.5, 0.25, 0.375, 0.625, 0.75)),
            "importance": Choice(("l2", "l1", "activation")),
            "round_to": Choice((8, 4, 16)),
        },
    )

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise InvalidDocument(f"prune_channels.ratio must be in (0, 1), got {self.ratio}")
        if self.samples < 1:
            raise InvalidDocument(f"prune_channels.samples must be at least 1, got {self.samples}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sparsify:
    """Train the model so that a cut which follows costs less: some weights are pulled to zero.

    Attributes:
        penalty: What is pulled. `l1`: single weights. `group_lasso`: the weights of an output
            channel together. `bn_scale`: the scales of batch normalisation (network slimming).
        strength: Of the pull beside the loss of the answers, above 0.
        temperature: Softens the classes of both, above 0; for classification only.
        training: The strategy.
    """

    penalty: Literal["l1", "group_lasso", "bn_scale"] = "group_lasso"
    strength: float = 1e-4
    temperature: float = 4.0
    training: Training = field(default_factory=Training)

    stage: ClassVar[Stage] = Stage.FLOAT
    declares: ClassVar[Declaration] = Declaration(
        place=Place.PREPARE,
        effect=Effect.RETRAINS,
        improves=frozenset(),  # what follows costs less answers
        needs=frozenset({Need.TRAINING}),
        ranges={
            "penalty": Choice(("group_lasso", "l1")),
            "strength": Real(1e-5, 1e-3, log=True),
            **TRAINING_RANGES,
        },
    )

    def __post_init__(self) -> None:
        for name in ("strength", "temperature"):
            if not getattr(self, name) > 0:
                raise InvalidDocument(f"sparsify.{name} must be above 0, got {getattr(self, name)}")
