"""Steps that leave the model as it is and choose how it is opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from optimizers.contract.declaration import (
    FASTER,
    Declaration,
    Effect,
    Place,
)
from optimizers.contract.errors import InvalidDocument
from optimizers.contract.goal import FigureName
from optimizers.contract.stage import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneSession:
    """Measure session arrangements and keep the best for the profile's goal.

    The model file stays as it is. Each list is what may be tried; an empty one means every
    sensible value on this machine.

    Attributes:
        threads: Threads inside one run, each at least 1.
        arena: Whether the runtime may keep freed memory.
        optimization: Graph optimisation levels of onnxruntime.
    """

    threads: tuple[int, ...] = ()
    arena: tuple[bool, ...] = ()
    optimization: tuple[Literal["all", "extended", "basic", "disabled"], ...] = ()

    stage: ClassVar[Stage] = Stage.SESSION
    declares: ClassVar[Declaration] = Declaration(
        place=Place.SESSION,
        effect=Effect.LOSSLESS,
        improves=FASTER | frozenset({FigureName.MEMORY}),
    )

    def __post_init__(self) -> None:
        if any(count < 1 for count in self.threads):
            raise InvalidDocument(
                f"tune_session.threads must each be at least 1, got {list(self.threads)}"
            )
