"""The fidelity that everybody expects, where the operator asked for none."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, assert_never

from optimizers.contract.goal import FigureName, Goal, parse_requirement
from optimizers.contract.profile import Task
from optimizers.contract.signature import Signature
from optimizers.evaluation.fidelity import Outputs

_CHOSEN_FIDELITY: Final = frozenset({FigureName.ACCURACY, FigureName.AGREEMENT, FigureName.COSINE})
_AGREEMENT: Final = "agreement >= 0.95"
_COSINE: Final = "cosine >= 0.99"
_SQNR: Final = "sqnr >= 15 dB"
_SQNR_OF_A_NUMBER: Final = "sqnr >= 20 dB"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputKinds:
    """What a model answers with, as far as it decides how answers are compared.

    Attributes:
        floating: Some output is rounded.
        wide: Some floating output has more than one element an item, so that it has a direction.
        exact: Some output is whole numbers, booleans or texts, which are equal or are not.
    """

    floating: bool
    wide: bool
    exact: bool


def output_kinds(signature: Signature, answers: Outputs | None) -> OutputKinds:
    """Look at a model's outputs.

    Args:
        signature: The model's.
        answers: Its answers to at least one item; None where there is no item, and then a
            variable length counts as more than one.
    """
    floating = [index for index, spec in enumerate(signature.outputs) if spec.is_floating]
    if answers is None:
        sizes = [signature.outputs[index].shape[1:] for index in floating]
        wide = any(length != 1 for shape in sizes for length in shape)
    else:
        wide = any(answers[index][0].size > 1 for index in floating)
    return OutputKinds(
        floating=bool(floating), wide=wide, exact=len(floating) < len(signature.outputs)
    )


def with_floors(goal: Goal, task: Task, kinds: OutputKinds) -> Goal:
    """The goal with a floor under each way in which this task's answers can go wrong.

    An operator who accepts less says so: a requirement on the same figure replaces the floor, and
    one on accuracy, agreement or cosine replaces the task's floor under agreement or cosine.
    """
    named = {requirement.figure for requirement in goal.require if requirement.under is None}
    floors = []
    if not named & _CHOSEN_FIDELITY:
        floors += _task_floor(task, kinds)
    if kinds.exact and FigureName.AGREEMENT not in named:
        floors.append(_AGREEMENT)
    if kinds.floating and FigureName.SQNR not in named:
        floors.append(_SQNR_OF_A_NUMBER if task is Task.REGRESSION else _SQNR)
    return replace(goal, require=(*goal.require, *map(parse_requirement, dict.fromkeys(floors))))


def _task_floor(task: Task, kinds: OutputKinds) -> list[str]:
    match task:
        case Task.CLASSIFICATION:
            return [_AGREEMENT]
        case Task.EMBEDDING:
            return [_COSINE]
        case Task.REGRESSION:
            return []
        case Task.OTHER:
            return [_COSINE] if kinds.wide else []
        case _:
            assert_never(task)
