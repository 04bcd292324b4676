"""Accuracy against labels, of both models on the same items."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizers.contract.errors import InvalidData
from optimizers.contract.evaluation import Estimate, Figure
from optimizers.contract.goal import FigureName
from optimizers.evaluation.bounds import clopper_pearson, paired_difference
from optimizers.evaluation.fidelity import Outputs


def check_labels(labels: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """The labels as class numbers.

    Raises:
        InvalidData: They are not one whole number in [0, classes) per item.
    """
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise InvalidData(
            f"labels must be one whole number per item, got {labels.dtype} of shape "
            f"{list(labels.shape)}"
        )
    if labels.size and (labels.min() < 0 or labels.max() >= classes):
        raise InvalidData(
            f"labels must lie in 0..{classes - 1}, got {labels.min()}..{labels.max()}"
        )
    return labels.astype(np.int64)


def right_answers(index: int, answers: Outputs, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Per item, whether the class with the highest score is the label."""
    right: NDArray[np.bool_] = answers[index].argmax(axis=1) == labels
    return right


def accuracy_figure(
    original: NDArray[np.bool_], variant: NDArray[np.bool_], alpha: float
) -> Figure:
    """Accuracy of the variant beside the original's, with the paired difference."""
    count = len(original)
    gains = int((variant & ~original).sum())
    losses = int((original & ~variant).sum())
    return Figure(
        name=FigureName.ACCURACY,
        unit="",
        samples=count,
        value=clopper_pearson(int(variant.sum()), count, alpha),
        original=clopper_pearson(int(original.sum()), count, alpha),
        difference=paired_difference(gains, losses, count, alpha),
        ratio=Estimate(value=float(variant.sum()) / max(1, int(original.sum()))),
        method="paired, Clopper-Pearson on each discordant share",
    )
