"""Which function computes which operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from optimizers.trainable.node import Inputs, Node

Function = Callable[[Node, Inputs], Tensor | tuple[Tensor, ...]]
"""Takes the node and its inputs; gives its output, or its outputs in order."""


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator of the default domain.

    Attributes:
        function: Computes it.
        on_host: Positions of inputs that are read as numbers (shapes, axes), so that they stay
            on the processor when the rest lies on an accelerator.
    """

    function: Function
    on_host: frozenset[int]


OPERATORS: Final[dict[str, Operator]] = {}


def operator(*names: str, on_host: tuple[int, ...] = ()) -> Callable[[Function], Function]:
    """Register the function below for operators of these names."""

    def register(function: Function) -> Function:
        for name in names:
            OPERATORS[name] = Operator(function, frozenset(on_host))
        return function

    return register
