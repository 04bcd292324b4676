"""Accuracy against labels, of both models on the same items."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizers.contract.errors import InvalidData
from optimizers.contract.evaluation import Estimate, Figure
from optimizers.contract.goal import FigureName
from optimizers.evaluation.bounds import clopper_pearson, paired_difference
from optimizers.evaluation.clusters import Clusters
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
    original: NDArray[np.bool_],
    variant: NDArray[np.bool_],
    alpha: float,
    clusters: Clusters | None = None,
) -> Figure:
    """Accuracy of the variant beside the original's, with the paired difference.

    Args:
        original: Per item, whether the original is right.
        variant: Per item, whether the variant is.
        alpha: Error probability of each bound.
        clusters: Which items belong together; None where each stands for itself.
    """
    if clusters is not None:
        return _by_cluster(original, variant, alpha, clusters)
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


def _by_cluster(
    original: NDArray[np.bool_], variant: NDArray[np.bool_], alpha: float, clusters: Clusters
) -> Figure:
    """Per item the difference is -1, 0 or 1, so that a cluster's mean lies in [-1, 1]."""
    before = clusters.mean_interval(original, 0.0, 1.0, alpha)
    after = clusters.mean_interval(variant, 0.0, 1.0, alpha)
    change = variant.astype(np.float64) - original
    return Figure(
        name=FigureName.ACCURACY,
        unit="",
        samples=len(clusters.sizes),
        of_items=len(clusters.places),
        value=after,
        original=before,
        difference=clusters.mean_interval(change, -1.0, 1.0, alpha),
        ratio=Estimate(value=after.value / before.value if before.value else 0.0),
        method=f"paired means {clusters.text}, betting (Waudby-Smith and Ramdas 2024)",
    )
