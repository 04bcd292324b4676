"""Running statistics of batch normalisation, computed anew after weights changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from optimizers.trainable.module import TrainableGraph


def reestimate_batch_norm(graph: TrainableGraph, batches: Iterable[Mapping[str, Tensor]]) -> int:
    """Replace the running means and variances by the means of those of some batches.

    Each batch weighs as much as it has items: r = sum_b n_b r_b / sum_b n_b. The variance of a
    batch is its unbiased one, as in torch. Each layer sees the others normalise by the batch.

    Args:
        graph: Stays in the mode it is in. Without batch normalisation nothing happens.
        batches: Feeds as `forward` takes them, of at least two items each.

    Returns:
        How many items there were.
    """
    if not graph.statistics_names():
        return 0
    was_training, items = graph.training, 0
    graph.train()
    try:
        with torch.no_grad():
            for feeds in batches:
                count = len(feeds[graph.inputs[0]])
                items += count
                graph.mode.momentum = count / items
                graph(feeds)
    finally:
        graph.mode.momentum = None
        graph.train(was_training)
    return items
