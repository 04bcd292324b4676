"""Distillation: the model learns to answer like a teacher, by its answers and what led there.

The teacher is the original unless the step names another; so is the student, after what the
recipe has done to it, unless the step brings one.

loss = w · teacher + (1 - w) · labels + w_f · features + w_a · attention; w is 1 without labels.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from optimizers.contract.distillation import Distill
from optimizers.contract.onnx_file import read_onnx_file
from optimizers.contract.profile import Task
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.distillation.student import open_student
from optimizers.evaluation.named import check_student, taught_outputs
from optimizers.learning.items import TrainingItems, teacher_answers, training_items
from optimizers.learning.labels import label_loss
from optimizers.learning.learn import learn
from optimizers.learning.losses import Projection, attention_distance
from optimizers.learning.teaching import teaching
from optimizers.step import StepContext, StepResult
from optimizers.trainable import TrainableGraph, read_trainable


def apply(model: Path, step: Distill, context: StepContext) -> StepResult:
    """Train the model on what its teacher answers to `data.train`; see `optimizers.step`.

    Raises:
        NotSupported: The graph has operators that cannot be trained.
        InvalidData: There are no training items.
        InvalidModel: The named teacher or student does not fit the original.
        InvalidDocument: A pair names what is no tensor of its model.
    """
    notes = [_note(kind, name, context) for kind, name in _named(step) if name]
    if step.student:
        model = _student(step.student, context)
    result = _distill(model, step, context)
    if step.student and not result.modified:
        result = replace(result, modified=True)  # it took the original's place all the same
    return replace(result, notes=(*notes, *result.notes))


def _named(step: Distill) -> tuple[tuple[str, str], ...]:
    return ("student", step.student), ("teacher", step.teacher)


def _note(kind: str, name: str, context: StepContext) -> str:
    return f"{kind}: {name}, sha256 {read_onnx_file(context.models[name]).sha256()}"


def _student(name: str, context: StepContext) -> Path:
    path = context.models[name]
    with (
        closing(Session(path, SessionSpec())) as student,
        closing(Session(context.original, SessionSpec())) as original,
    ):
        check_student(name, student.signature, original.signature)
    return path


def _distill(model: Path, step: Distill, context: StepContext) -> StepResult:
    items = training_items("distill", model, context)
    teacher = context.models[step.teacher] if step.teacher else context.original
    who = step.teacher or "the original"
    context.report(0.0, f"asking {who} about {items.count} items")
    answers = teacher_answers(teacher, items, _taught(step.teacher, teacher, context))
    student, is_normalised = open_student(model, items, context, step)
    inside = None
    if step.features or step.attention:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            inside = _Inside(step, student, read_trainable(teacher), items)
    of_answers = teaching(context.task, step.temperature, answers)
    learns_labels = items.labels is not None and context.task is Task.CLASSIFICATION
    scores = items.class_output if learns_labels and step.weight < 1 else None
    weight = 1.0 if scores is None else step.weight

    def loss(graph: TrainableGraph, numbers: torch.Tensor) -> torch.Tensor:
        feeds = items.feeds(numbers)
        wanted = (*graph.outputs, *(inside.wanted if inside is not None else ()))
        found = graph(feeds, wanted)
        total = weight * of_answers(found, numbers)
        if scores is not None:
            total = total + (1 - weight) * label_loss(found[scores], items, numbers)
        # What the projections learn says nothing of the student: held-out items go without.
        return total + inside(found, feeds) if inside is not None and graph.training else total

    return learn(
        "distill",
        model,
        student,
        loss,
        items,
        context,
        training=step.training,
        freeze=step.freeze,
        fold=is_normalised,
        keep_zeros=step.keep_zeros,
        beside=inside,
    )


def _taught(name: str, teacher: Path, context: StepContext) -> dict[str, str] | None:
    """The named teacher's outputs and the student's that learn from them; None for the original."""
    if not name:
        return None
    with (
        closing(Session(teacher, SessionSpec())) as theirs,
        closing(Session(context.original, SessionSpec())) as original,
    ):
        return taught_outputs(name, theirs.signature, original.signature)


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
        teacher = self._teacher[0]
        with torch.no_grad():
            own = {name: feeds[name] for name in teacher.inputs}
            answers: dict[str, torch.Tensor] = teacher(own, self._from_teacher)
        return answers
