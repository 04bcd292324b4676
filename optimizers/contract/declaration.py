"""What a step says of itself to whoever composes recipes: place, effect, needs, parameters.

Declared once beside the step's parameters; the search space, the planner and the documentation are
derived from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from optimizers.contract.goal import FigureName

Value = bool | int | float | str
"""What a parameter may be in a search."""


class Place(IntEnum):
    """Where a step goes in a recipe that was composed for it; at most one step of some places.

    Attributes:
        CLEAN: Before anything else; the answers stay.
        PREPARE: Trains so that a cut which follows costs less.
        SHAPE: Changes which operators there are, and how wide they are.
        THIN: Makes single weights zero.
        TRAIN: Wins back what was lost; one of them.
        NUMBERS: Stores weights or activations in fewer bits; one of them.
        SESSION: Chooses how the model is opened; one of them.
    """

    CLEAN = 1
    PREPARE = 2
    SHAPE = 3
    THIN = 4
    TRAIN = 5
    NUMBERS = 6
    SESSION = 7


ONE_OF_A_PLACE = frozenset({Place.PREPARE, Place.TRAIN, Place.NUMBERS, Place.SESSION})
"""Places with at most one step of a recipe."""


class Effect(StrEnum):
    """What a step does to the answers.

    Attributes:
        LOSSLESS: They stay, up to rounding.
        LOSSY: They change at once.
        RETRAINS: The model is trained, which takes time and brings answers back.
    """

    LOSSLESS = "lossless"
    LOSSY = "lossy"
    RETRAINS = "retrains"


class Need(StrEnum):
    """What must be there for a step to do anything."""

    CALIBRATION = "calibration data"
    TRAINING = "training data"
    LABELS = "labels in the training data"
    CUDA = "a CUDA or TensorRT provider"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some values; the first is what a composer takes unasked."""

    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Real:
    """A number in [low, high]; `log`: its logarithm is what is spread evenly."""

    low: float
    high: float
    log: bool = False


Range = Choice | Real


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """What a step says of itself.

    Attributes:
        place: Where it goes in a recipe.
        effect: What it does to the answers.
        improves: The figures it can make better.
        needs: What must be there.
        ranges: Parameter → values worth trying; parameters of a part are written `part.name`.
            What is not named stays at its default.
    """

    place: Place
    effect: Effect
    improves: frozenset[FigureName]
    needs: frozenset[Need] = frozenset()
    ranges: Mapping[str, Range] = field(default_factory=dict)


FASTER = frozenset(
    {
        FigureName.LATENCY_P50,
        FigureName.LATENCY_P99,
        FigureName.THROUGHPUT,
        FigureName.COST,
    }
)
SMALLER = frozenset({FigureName.SIZE, FigureName.MEMORY})
TRUER = frozenset({FigureName.ACCURACY, FigureName.AGREEMENT, FigureName.COSINE, FigureName.SQNR})
