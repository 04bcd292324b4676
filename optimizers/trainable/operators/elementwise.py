"""Arithmetic, comparisons and logic on elements, with broadcasting."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Final

import torch
from torch import Tensor

from optimizers.trainable.node import Inputs, Node
from optimizers.trainable.registry import Function, operator

_OF_ONE: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}
_OF_TWO: Final[dict[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "Add": torch.add,
    "And": torch.logical_and,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Mul": torch.mul,
    "Or": torch.logical_or,
    "Sub": torch.sub,
    "Xor": torch.logical_xor,
}
_OF_MANY: Final[dict[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "Max": torch.maximum,
    "Min": torch.minimum,
    "Sum": torch.add,
}


def _of_one(function: Callable[[Tensor], Tensor]) -> Function:
    return lambda node, inputs: function(inputs[0])


def _of_two(function: Callable[[Tensor, Tensor], Tensor]) -> Function:
    return lambda node, inputs: function(inputs[0], inputs[1])


def _of_many(function: Callable[[Tensor, Tensor], Tensor]) -> Function:
    return lambda node, inputs: reduce(function, inputs)


for _name, _one in _OF_ONE.items():
    operator(_name)(_of_one(_one))
for _name, _two in _OF_TWO.items():
    operator(_name)(_of_two(_two))
for _name, _many in _OF_MANY.items():
    operator(_name)(_of_many(_many))


@operator("Div")
def divide(node: Node, inputs: Inputs) -> Tensor:
    """Give a / b; of integers, without what lies behind the point."""
    mode = None if inputs[0].is_floating_point() else "trunc"
    return torch.div(inputs[0], inputs[1], rounding_mode=mode)


@operator("Pow")
def power(node: Node, inputs: Inputs) -> Tensor:
    """Give a to the power of b, in the datatype of a."""
    return torch.pow(inputs[0], inputs[1]).to(inputs[0].dtype)


@operator("Mod")
def remainder(node: Node, inputs: Inputs) -> Tensor:
    """What is left of a / b, with the sign of b, or of a where the node says `fmod`."""
    function = torch.fmod if node.integer("fmod", 0) else torch.remainder
    return function(inputs[0], inputs[1])


@operator("Mean")
def mean(node: Node, inputs: Inputs) -> Tensor:
    """The mean of all inputs."""
    return reduce(torch.add, inputs) / len(inputs)


@operator("Where")
def where(node: Node, inputs: Inputs) -> Tensor:
    """One of two values as a condition says."""
    return torch.where(inputs[0], inputs[1], inputs[2])


@operator("IsInf")
def is_infinite(node: Node, inputs: Inputs) -> Tensor:
    """Whether x is infinite, of the signs that the node asks for."""
    x, signs = inputs[0], torch.zeros_like(inputs[0], dtype=torch.bool)
    if node.integer("detect_positive", 1):
        signs = signs | torch.isposinf(x)
    if node.integer("detect_negative", 1):
        signs = signs | torch.isneginf(x)
    return signs
