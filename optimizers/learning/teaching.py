"""Learning from what a teacher answered, whatever the model is for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from optimizers.contract.profile import Task
from optimizers.learning.losses import (
    as_logits,
    cosine_distance,
    relative_error,
    softened_divergence,
)

AnswerLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def teaching(
    task: Task, temperature: float, answers: Mapping[str, torch.Tensor]
) -> Callable[[Mapping[str, torch.Tensor], torch.Tensor], torch.Tensor]:
    """The sum over outputs of how far a student's answers are from its teacher's.

    Args:
        task: What the model is for.
        temperature: Of classes.
        answers: The teacher's to every item, by output.

    Returns:
        A loss of the student's outputs and the numbers of the items that they answer.
    """
    losses = {name: answer_loss(task, temperature, answer) for name, answer in answers.items()}

    def loss(found: Mapping[str, torch.Tensor], numbers: torch.Tensor) -> torch.Tensor:
        distances = [losses[name](found[name], answers[name][numbers]) for name in losses]
        return torch.stack(distances).sum()

    return loss


def answer_loss(task: Task, temperature: float, answers: torch.Tensor) -> AnswerLoss:
    """How far a student's answers to some items are from its teacher's.

    Args:
        task: What the model is for.
        temperature: Of classes.
        answers: All of the teacher's, of one output.
    """
    if task is Task.EMBEDDING:
        return cosine_distance
    if task is not Task.CLASSIFICATION or answers.ndim != 2 or answers.shape[1] == 1:
        return relative_error

    def divergence(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        one, other = (as_logits(each, like=answers) for each in (student, teacher))
        return softened_divergence(one, other, temperature)

    return divergence
