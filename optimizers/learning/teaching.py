"""Learning from what a teacher answered, whatever the model is for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from optimizers.contract.errors import InvalidModel, NotSupported
from optimizers.contract.profile import Task
from optimizers.learning.answers import Answers
from optimizers.learning.losses import (
    as_logits,
    cosine_distance,
    mean_square,
    relative_error,
    softened_divergence,
)

AnswerLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def teaching(
    task: Task, temperature: float, answers: Mapping[str, Answers]
) -> Callable[[Mapping[str, torch.Tensor], torch.Tensor], torch.Tensor]:
    """The sum over outputs of how far a student's answers are from its teacher's.

    Args:
        task: What the model is for.
        temperature: Of classes.
        answers: The teacher's to every item, by output.

    Returns:
        A loss of the student's outputs and the numbers of the items that they answer.

    Raises:
        NotSupported: No output is floating point, so nothing can be learned from it.
        InvalidModel: From the loss: an answer has another shape than the teacher's. Signatures do
            not tell where lengths are free, and torch would stretch one to the other in silence.
    """
    if not answers:
        raise NotSupported(
            "the teacher gives no floating-point output, so nothing can be learned from it"
        )
    losses = {name: answer_loss(task, temperature, answer) for name, answer in answers.items()}

    def loss(found: Mapping[str, torch.Tensor], numbers: torch.Tensor) -> torch.Tensor:
        distances = []
        for name, distance in losses.items():
            wanted = answers[name][numbers]
            if found[name].shape != wanted.shape:
                own, theirs = ([*one.shape[1:]] for one in (found[name], wanted))
                raise InvalidModel(f"the teacher answers {theirs} an item where '{name}' is {own}")
            distances.append(distance(found[name], wanted))
        return torch.stack(distances).sum()

    return loss


def answer_loss(task: Task, temperature: float, answers: Answers) -> AnswerLoss:
    """How far a student's answers to some items are from its teacher's.

    The divergence of classes does not see a number that is added to all logits of an item, which
    those who read the logits do; the relative error beside it does.

    Args:
        task: What the model is for.
        temperature: Of classes.
        answers: All of the teacher's, of one output.
    """
    if task is Task.EMBEDDING:
        return cosine_distance
    size = mean_square(answers.parts())
    if task is not Task.CLASSIFICATION or len(answers.shape) != 2 or answers.shape[1] == 1:
        return lambda student, teacher: relative_error(student, teacher, size)
    logits = as_logits(answers.parts())

    def distance(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        divergence = softened_divergence(logits(student), logits(teacher), temperature)
        return divergence + relative_error(student, teacher, size)

    return distance
