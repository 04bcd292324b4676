"""Learning from labels: cross-entropy -log softmax(z)_y of the right class y."""

from __future__ import annotations

import torch
from torch.nn import functional

from optimizers.evaluation.task import check_labels
from optimizers.learning.items import TrainingItems
from optimizers.learning.losses import as_logits


def label_loss(answers: torch.Tensor, items: TrainingItems, numbers: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of answers against the items' labels.

    Args:
        answers: Logits or probabilities, float [items, classes].
        items: All items, with labels.
        numbers: Which of them were answered, int64 [items].

    Raises:
        InvalidData: The labels do not fit the number of classes.
    """
    assert items.labels is not None
    labels = items.labels[numbers]
    check_labels(labels.numpy(), answers.shape[1])
    return functional.cross_entropy(as_logits([answers])(answers), labels)
