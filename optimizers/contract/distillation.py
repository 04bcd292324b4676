"""Steps that train a model: from labels, or from what another model answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from optimizers.contract.below import why_not_below
from optimizers.contract.declaration import (
    TRUER,
    Choice,
    Declaration,
    Effect,
    Need,
    Place,
)
from optimizers.contract.documents import shown
from optimizers.contract.errors import InvalidDocument
from optimizers.contract.stage import Stage
from optimizers.contract.training import TRAINING_RANGES, Training


@dataclass(frozen=True, slots=True, kw_only=True)
class Finetune:
    """Train the model on its labelled training data.

    Attributes:
        training: The strategy.
        freeze: Names of weights that stay as they are.
        keep_zeros: Leave weights that are zero at zero, as after `prune_weights`; not after
            `grow`, whose layers begin with zeros that have to learn.
        batch_norm: Train behind batch normalisation, which is put after each convolution that has
            none and folded away again; for deep nets that were exported without it.
    """

    training: Training = field(default_factory=Training)
    freeze: tuple[str, ...] = ()
    keep_zeros: bool = False
    batch_norm: bool = False

    stage: ClassVar[Stage] = Stage.FLOAT
    declares: ClassVar[Declaration] = Declaration(
        place=Place.TRAIN,
        effect=Effect.RETRAINS,
        improves=TRUER,
        needs=frozenset({Need.TRAINING, Need.LABELS}),
        ranges=TRAINING_RANGES,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturePair:
    """Two tensors that are to become alike.

    Attributes:
        teacher: Its name in the teacher.
        student: Its name in the model that trains.
    """

    teacher: str
    student: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Distill:
    """Train the model to answer like the original, or like a named model; needs no labels.

    Attributes:
        teacher: Path of an ONNX file to learn from, below the directory of the file that holds
            the recipe; "": the original.
        student: Path of an ONNX file to train in the place of the original, and to go on with;
            "": what the recipe made so far.
        temperature: Softens the classes of both, above 0; for classification only.
        weight: Share of the teacher's loss in [0, 1]; labels, where there are some, have the rest.
        features: Tensors inside that are to become alike, through a learned projection.
        feature_weight: Of their loss beside that of the answers, at least 0.
        attention: Tensors whose normalised maps of activation are to become alike.
        attention_weight: Of their loss beside that of the answers, at least 0.
        training: The strategy.
        freeze: Names of weights that stay as they are.
        keep_zeros: Leave weights that are zero at zero, as for `Finetune`.
        batch_norm: Train behind batch normalisation, as for `Finetune`.
    """

    teacher: str = ""
    student: str = ""
    temperature: float = 4.0
    weight: float = 0.8
    features: tuple[FeaturePair, ...] = ()
    feature_weight: float = 1.0
    attention: tuple[FeaturePair, ...] = ()
    attention_weight: float = 1.0
    training: Training = field(default_factory=Training)
    freeze: tuple[str, ...] = ()
    keep_zeros: bool = False
    batch_norm: bool = False

    stage: ClassVar[Stage] = Stage.FLOAT
    declares: ClassVar[Declaration] = Declaration(
        place=Place.TRAIN,
        effect=Effect.RETRAINS,
        improves=TRUER,
        needs=frozenset({Need.TRAINING}),
        ranges={
            "temperature": Choice((4.0, 1.0, 2.0)),
            "weight": Choice((0.8, 0.5, 1.0)),
            **TRAINING_RANGES,
        },
    )

    @property
    def models(self) -> tuple[str, ...]:
        """The files that it names."""
        return tuple(name for name in (self.teacher, self.student) if name)

    def __post_init__(self) -> None:
        for key in ("teacher", "student"):
            name = getattr(self, key)
            problem = why_not_below(name, "the directory of the file that names it")
            if name and problem:
                raise InvalidDocument(f"distill.{key}: {problem}, got {shown(name)}")
        if not self.temperature > 0:
            raise InvalidDocument(f"distill.temperature must be above 0, got {self.temperature}")
        if not 0 <= self.weight <= 1:
            raise InvalidDocument(f"distill.weight must be in [0, 1], got {self.weight}")
        for name in ("feature_weight", "attention_weight"):
            if not getattr(self, name) >= 0:
                raise InvalidDocument(
                    f"distill.{name} must be at least 0, got {getattr(self, name)}"
                )
