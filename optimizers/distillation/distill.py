"""Distillation: the model learns to answer like the original, by its answers and what led there.

loss = w · teacher + (1 - w) · labels + w_f · features + w_a · attention; w is 1 without labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from optimizers.contract.distillation import Distill
from optimizers.contract.errors import InvalidDocument
from optimizers.contract.profile import Task
from optimizers.distillation.finetune import label_loss
from optimizers.distillation.items import TrainingItems, teacher_answers, training_items
from optimizers.distillation.learning import learn
from optimizers.distillation.losses import (
    Projection,
    as_logits,
    attention_distance,
    cosine_distance,
    relative_error,
    softened_divergence,
)
from optimizers.step import StepContext, StepResult
from optimizers.trainable import TrainableGraph, read_trainable

AnswerLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def apply(model: Path, step: Distill, context: StepContext) -> StepResult:
    """Train the model on what the original answers to `data.train`; see `optimizers.step`.

    Raises:
        NotSupported: The graph has operators that cannot be trained.
        InvalidData: There are no training items.
        InvalidDocument: A pair of features names what is no tensor.
    """
    items = training_items("distill", model, context)
    context.report(0.0, f"asking the original about {items.count} items")
    answers = teacher_answers(context.original, items)
    student, inside = read_trainable(model), None
    if step.features or step.attention:
        inside = _Inside(step, student, read_trainable(context.original), items)
    losses = {
        name: answer_loss(context.task, step.temperature, answer)
        for name, answer in answers.items()
    }
    weight = 1.0 if items.labels is None or context.task is not Task.CLASSIFICATION else step.weight

    def loss(graph: TrainableGraph, numbers: torch.Tensor) -> torch.Tensor:
        feeds = items.feeds(numbers)
        wanted = (*graph.outputs, *(() if inside is None else inside.wanted))
        found = graph(feeds, wanted)
        total = weight * sum(
            (losses[name](found[name], answer[numbers]) for name, answer in answers.items()),
            torch.zeros(()),
        )
        if weight < 1:
            total = total + (1 - weight) * label_loss(found[graph.outputs[0]], items, numbers)
        return total if inside is None else total + inside(found, feeds)

    return learn(
        "distill",
        model,
        student,
        loss,
        items.count,
        context,
        training=step.training,
        freeze=step.freeze,
        beside=inside,
    )


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


class _Inside(nn.Module):
    """The loss of tensors inside: features through projections that are learned, and attention."""

    def __init__(
        self, step: Distill, student: TrainableGraph, teacher: TrainableGraph, items: TrainingItems
    ) -> None:
        super().__init__()
        self._step = step
        self._teacher = [teacher.eval().requires_grad_(False)]  # in a list: it does not train
        pairs = (*step.features, *step.attention)
        self.wanted = tuple(dict.fromkeys(pair.student for pair in pairs))
        self._from_teacher = tuple(dict.fromkeys(pair.teacher for pair in pairs))
        _require_tensors("student", self.wanted, student)
        _require_tensors("teacher", self._from_teacher, teacher)
        feeds = items.feeds(torch.arange(min(2, items.count)))
        with torch.no_grad():
            own, theirs = student.eval()(feeds, self.wanted), self._answers(feeds)
        self.projections = nn.ModuleList(
            Projection(own[pair.student], theirs[pair.teacher]) for pair in step.features
        )

    def forward(
        self, found: dict[str, torch.Tensor], feeds: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """The weighted loss of all pairs."""
        theirs, step = self._answers(feeds), self._step
        total = torch.zeros(())
        for pair, projection in zip(step.features, self.projections, strict=True):
            projected = projection(found[pair.student])
            total = total + step.feature_weight * functional.mse_loss(
                projected, theirs[pair.teacher]
            )
        for pair in step.attention:
            distance = attention_distance(found[pair.student], theirs[pair.teacher])
            total = total + step.attention_weight * distance
        return total

    def _answers(self, feeds: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            return self._teacher[0](feeds, self._from_teacher)


def _require_tensors(whose: str, names: Sequence[str], graph: TrainableGraph) -> None:
    known = graph.tensor_names()
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InvalidDocument(
            f"distill names {', '.join(unknown)} as tensors of the {whose}, which has "
            f"{', '.join(list(known)[:40])}"
        )
