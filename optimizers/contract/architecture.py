"""Steps that change which operators a model is made of, and how wide they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Literal, get_args

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

    def __post_init__(self) -> None:
        if not 0 < self.keep < 1:
            raise InvalidDocument(f"low_rank.keep must be in (0, 1), got {self.keep}")
