"""Steps that change which operators a model is made of, and how wide they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Literal, get_args

from optimizers.contract.declaration import (
    FASTER,
    SMALLER,
    TRUER,
    Choice,
    Declaration,
    Effect,
    Need,
    Place,
)
from optimizers.contract.errors import InvalidDocument
from optimizers.contract.stage import Stage

Merging = Literal["batch_norm", "branches", "linear", "parallel"]

MERGINGS: Final[tuple[Merging, ...]] = get_args(Merging)


@dataclass(frozen=True, slots=True, kw_only=True)
class Simplify:
    """Compute what is constant, and drop what is unused, without effect or there twice.

    Attributes:
        largest_constant: Most numbers in a constant that is computed ahead, at least 1. One that
            takes no more bytes than what it is made of may be larger.
    """

    largest_constant: int = 1024

    stage: ClassVar[Stage] = Stage.FLOAT
    declares: ClassVar[Declaration] = Declaration(
        place=Place.CLEAN, effect=Effect.LOSSLESS, improves=FASTER | SMALLER
    )

    def __post_init__(self) -> None:
        if self.largest_constant < 1:
            raise InvalidDocument(
                f"simplify.largest_constant must be at least 1, got {self.largest_constant}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """Make one linear operator out of several that follow or accompany each other.

    Attributes:
        which: What is merged: `batch_norm`, into the operator before it; `branches`, convolutions
            of one input whose results are added up; `linear`, two maps in a row; `parallel`,
            matrix products of one input. At least one.
    """

    which: tuple[Merging, ...] = MERGINGS

    stage: ClassVar[Stage] = Stage.FLOAT
    declares: ClassVar[Declaration] = Declaration(
        place=Place.CLEAN, effect=Effect.LOSSLESS, improves=FASTER | SMALLER
    )

    def __post_init__(self) -> None:
        if not self.which:
            raise InvalidDocument(f"merge.which must name at least one of {', '.join(MERGINGS)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """Replace weights by two factors of lower rank, where that takes fewer multiplications.

    Attributes:
        by: What `keep` is a share of: `energy`, the sum of squared singular values; `rank`, the
            largest rank possible.
        keep: The share kept, in (0, 1).
        exclude: Names of nodes to leave alone.
    """

    by: Literal["energy", "rank"] = "energy"
    keep: float = 0.95
    exclude: tuple[str, ...] = ()

    stage: ClassVar[Stage] = Stage.FLOAT
    declares: ClassVar[Declaration] = Declaration(
        place=Place.SHAPE,
        effect=Effect.LOSSY,
        improves=FASTER | SMALLER,
        ranges={"keep": Choice((0.95, 0.9, 0.8))},
    )

    def __post_init__(self) -> None:
        if not 0 < self.keep < 1:
            raise InvalidDocument(f"low_rank.keep must be in (0, 1), got {self.keep}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DropLayers:
    """Leave out residual blocks: x + f(x) becomes x.

    Attributes:
        blocks: Which ones, counted from 0 in the model's order; empty: the least important.
        count: How many of the least important, at least 1.
        samples: At most so many calibration items, drawn from all, at least 1.
    """

    blocks: tuple[int, ...] = ()
    count: int = 1
    samples: int = 128

    stage: ClassVar[Stage] = Stage.FLOAT
    declares: ClassVar[Declaration] = Declaration(
        place=Place.SHAPE,
        effect=Effect.LOSSY,
        improves=FASTER | SMALLER,
        needs=frozenset({Need.CALIBRATION}),
        ranges={"count": Choice((1, 2, 3))},
    )

    def __post_init__(self) -> None:
        for name in ("count", "samples"):
            if getattr(self, name) < 1:
                raise InvalidDocument(
                    f"drop_layers.{name} must be at least 1, got {getattr(self, name)}"
                )
        if any(block < 0 for block in self.blocks) or len(set(self.blocks)) < len(self.blocks):
            raise InvalidDocument(
                f"drop_layers.blocks must be different and at least 0, got {self.blocks}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Grow:
    """Make layers wider and the model deeper without changing its answers, to train it further.

    Attributes:
        wider: Factor on the width of every layer between two, at least 1; 1: none.
        deeper: How many layers are put in, at least 0, one after each of the first Relus.
        noise: How far copies of a unit start apart, as a share of their weight, in [0, 1). They
            are weighed differently by what reads them; their sum stays the same.
        exclude: Names of layers that are not made wider.
    """

    wider: float = 1.5
    deeper: int = 0
    noise: float = 0.0
    exclude: tuple[str, ...] = ()

    stage: ClassVar[Stage] = Stage.FLOAT
    declares: ClassVar[Declaration] = Declaration(
        place=Place.SHAPE,
        effect=Effect.LOSSLESS,
        improves=TRUER,
        needs=frozenset({Need.TRAINING}),
        ranges={"wider": Choice((1.25, 1.5, 2.0))},
    )

    def __post_init__(self) -> None:
        if self.wider < 1:
            raise InvalidDocument(f"grow.wider must be at least 1, got {self.wider}")
        if self.deeper < 0:
            raise InvalidDocument(f"grow.deeper must be at least 0, got {self.deeper}")
        if not 0 <= self.noise < 1:
            raise InvalidDocument(f"grow.noise must be in [0, 1), got {self.noise}")
        if self.wider == 1 and self.deeper == 0:
            raise InvalidDocument("grow.wider must be above 1 where grow.deeper is 0, got 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class DropHeads:
    """Leave out the attention heads that add least to what their layer gives.

    Attributes:
        count: How many of each attention, at least 1; one head always stays.
        samples: At most so many calibration items, drawn from all, at least 1.
    """

    count: int = 1
    samples: int = 128

    stage: ClassVar[Stage] = Stage.FLOAT
    declares: ClassVar[Declaration] = Declaration(
        place=Place.SHAPE,
        effect=Effect.LOSSY,
        improves=FASTER | SMALLER,
        needs=frozenset({Need.CALIBRATION}),
        ranges={"count": Choice((1, 2, 4))},
    )

    def __post_init__(self) -> None:
        for name in ("count", "samples"):
            if getattr(self, name) < 1:
                raise InvalidDocument(
                    f"drop_heads.{name} must be at least 1, got {getattr(self, name)}"
                )
