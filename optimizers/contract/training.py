"""How a step trains: one set of parameters for every step that does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from pydantic import ConfigDict

from optimizers.contract.declaration import Choice, Range, Real
from optimizers.contract.errors import InvalidDocument


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A training strategy.

    Attributes:
        optimizer: `sgd` with momentum, or `adamw` (Loshchilov and Hutter, 2019).
        learning_rate: The largest one; schedules go down from it. Above 0.
        momentum: Of `sgd`, in [0, 1).
        nesterov: Whether `sgd` looks ahead (Nesterov's momentum, which must then be above 0).
        weight_decay: Added to the gradient by `sgd`, taken off the weight by `adamw`; at least 0.
        schedule: How the learning rate goes: `constant`; `step`, a tenth of it after half and a
            hundredth after three quarters of all steps; `cosine`, to zero (Loshchilov and Hutter,
            2017); `one_cycle`, up and down again (Smith and Topin, 2019).
        warm_up: Share of the steps in which the rate rises from zero, in [0, 1); `one_cycle` has
            a rise of its own.
        batch_size: Items in one forward pass, at least 1.
        accumulate: Forward passes before one step of the optimizer, at least 1.
        epochs: Passes over the training items, at least 1.
        patience: Epochs without a better loss on held-out items before it ends; 0: never.
        clip_norm: Largest norm of all gradients together; 0: any.
        ema: Decay of an average of the weights, which replaces them in the end; 0: none. At step n
            it is at most (1 + n) / (10 + n), so that short trainings forget how they began.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    optimizer: Literal["sgd", "adamw"] = "adamw"
    learning_rate: float = 1e-3
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    schedule: Literal["constant", "step", "cosine", "one_cycle"] = "one_cycle"
    warm_up: float = 0.0
    batch_size: int = 64
    accumulate: int = 1
    epochs: int = 2
    patience: int = 0
    clip_norm: float = 0.0
    ema: float = 0.0

    def __post_init__(self) -> None:
        self._require(("batch_size", "accumulate", "epochs"), lambda one: one >= 1, "at least 1")
        self._require(("weight_decay", "patience", "clip_norm"), lambda one: one >= 0, "at least 0")
        self._require(("momentum", "warm_up", "ema"), lambda one: 0 <= one < 1, "in [0, 1)")
        self._require(("learning_rate",), lambda one: one > 0, "above 0")
        if self.nesterov:
            self._require(("momentum",), lambda one: one > 0, "above 0 with nesterov")

    def _require(self, names: tuple[str, ...], holds: Callable[[float], bool], wanted: str) -> None:
        for name in names:
            value = getattr(self, name)
            if not holds(value):
                raise InvalidDocument(f"training.{name} must be {wanted}, got {value}")


TRAINING_RANGES: Final[dict[str, Range]] = {
    "training.learning_rate": Real(1e-4, 1e-2, log=True),
    "training.batch_size": Choice((64, 32, 128)),
    "training.optimizer": Choice(("adamw", "sgd")),
    "training.schedule": Choice(("one_cycle", "cosine", "constant")),
    "training.epochs": Choice((2, 4, 8)),
}
"""What a search tries of the strategy, as parameters of a step that has one."""
