"""Training on labels: cross-entropy -log softmax(z)_y of the right class y."""

from __future__ import annotations

from pathlib import Path

import torch

from optimizers.contract.distillation import Finetune
from optimizers.contract.errors import InvalidData, NotSupported
from optimizers.contract.profile import Task
from optimizers.distillation.student import open_student
from optimizers.learning.items import training_items
from optimizers.learning.labels import label_loss
from optimizers.learning.learn import learn
from optimizers.step import StepContext, StepResult
from optimizers.trainable import TrainableGraph


def apply(model: Path, step: Finetune, context: StepContext) -> StepResult:
    """Train a classifier on `data.train`; see `optimizers.step`.

    Raises:
        NotSupported: The task is another, or the graph has operators that cannot be trained.
        InvalidData: There are no training items, or they have no labels.
    """
    if context.task is not Task.CLASSIFICATION:
        raise NotSupported(
            f"finetune learns classes from labels, but the task is {context.task}; distill learns "
            "from the original and needs no labels"
        )
    items = training_items("finetune", model, context)
    if items.labels is None:
        raise InvalidData(
            "finetune needs labels: add an array 'labels' to data.train, or use distill, which "
            "learns from the original's answers"
        )
    scores = items.class_output
    if scores is None:
        raise NotSupported(
            "finetune learns from labels, and the model has not exactly one output with scores of "
            "classes [items, classes]; distill learns from the original's answers"
        )
    graph, is_normalised = open_student(model, items, context, step)

    def loss(graph: TrainableGraph, numbers: torch.Tensor) -> torch.Tensor:
        return label_loss(graph(items.feeds(numbers))[scores], items, numbers)

    return learn(
        "finetune",
        model,
        graph,
        loss,
        items,
        context,
        training=step.training,
        freeze=step.freeze,
        fold=is_normalised,
        keep_zeros=step.keep_zeros,
    )
