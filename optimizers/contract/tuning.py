"""Steps that leave the model as it is and choose how it is opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from optimizers.contract.declaration import (
    FASTER,
    Choice,
    Declaration,
    Effect,
    Place,
)
from optimizers.contract.errors import InvalidDocument
from optimizers.contract.goal import FigureName
from optimizers.contract.stage import Stage

GraphLevel = Literal["all", "extended", "basic", "disabled"]

_OPENED: Final = FASTER | frozenset({FigureName.MEMORY})


@dataclass(frozen=True, slots=True, kw_only=True)
class SetSession:
    """Open the model in one arrangement, without asking whether it is a better one.

    The model file stays as it is.

    Attributes:
        threads: Threads inside one run, at least 1; no more than there are processors are taken.
        lanes: Runs at once, at least 1; 0: as many as the threads leave room for, which is also
            the most.
        arena: Whether the runtime may keep freed memory.
        optimization: Graph optimisation level of onnxruntime.
    """

    threads: int = 1
    lanes: int = 0
    arena: bool = False
    optimization: GraphLevel = "all"

    stage: ClassVar[Stage] = Stage.SESSION
    declares: ClassVar[Declaration] = Declaration(
        place=Place.SESSION,
        effect=Effect.LOSSLESS,
        improves=_OPENED,
        ranges={
            "threads": Choice((1, 2, 4, 8, 16)),
            "lanes": Choice((0, 1)),
            "arena": Choice((False, True)),
            "optimization": Choice(("all", "extended")),
        },
    )

    def __post_init__(self) -> None:
        for name, least in (("threads", 1), ("lanes", 0)):
            if getattr(self, name) < least:
                raise InvalidDocument(
                    f"set_session.{name} must be at least {least}, got {getattr(self, name)}"
                )


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
    optimization: tuple[GraphLevel, ...] = ()

    stage: ClassVar[Stage] = Stage.SESSION
    declares: ClassVar[Declaration] = Declaration(
        place=Place.SESSION,
        effect=Effect.LOSSLESS,
        improves=_OPENED,
    )

    def __post_init__(self) -> None:
        if any(count < 1 for count in self.threads):
            raise InvalidDocument(
                f"tune_session.threads must each be at least 1, got {list(self.threads)}"
            )
