"""The graph that is trained, as its step wants it."""

from __future__ import annotations

from pathlib import Path

from optimizers.contract.distillation import Distill, Finetune
from optimizers.learning.items import TrainingItems
from optimizers.learning.normalization import insert_batch_norm
from optimizers.step import StepContext
from optimizers.trainable import TrainableGraph, read_trainable


def open_student(
    model: Path, items: TrainingItems, context: StepContext, step: Finetune | Distill
) -> tuple[TrainableGraph, bool]:
    """The graph of `model`, and whether it was given normalisations that are to be folded."""
    normalised = context.work_directory / "normalised.onnx"
    if step.batch_norm and insert_batch_norm(model, items, normalised):
        return read_trainable(normalised), True
    return read_trainable(model), False
