"""Training with narrow weights: the forward pass sees what will be stored, the gradient passes it.

The teacher is the original. All that is not narrow (biases, scales of norms, other weights) trains
as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from optimizers.contract.quantization import Binarize, Ternarize, WeightsNbits
from optimizers.contract.training import Training
from optimizers.graph import load_named
from optimizers.learning.items import TrainingItems, teacher_answers
from optimizers.learning.learn import learn
from optimizers.learning.teaching import teaching
from optimizers.quantization.coding import Coder
from optimizers.quantization.latent import with_latent_weights
from optimizers.quantization.narrowing import Place
from optimizers.saving import save
from optimizers.step import StepContext, StepResult
from optimizers.trainable import TrainableGraph, read_trainable

NarrowStep = WeightsNbits | Binarize | Ternarize


def train_narrow(
    model: Path,
    places: Sequence[Place],
    code: Coder,
    items: TrainingItems,
    context: StepContext,
    *,
    step: NarrowStep,
    name: str,
) -> StepResult:
    """Train the floats behind narrow weights, and all the rest of the model.

    Args:
        model: Prepared, but not narrow yet; stays untouched.
        places: Which nodes will be narrow.
        code: What stores their weights.
        items: To train on.
        context: Of this part of the step; of its `original` the answers are learned.
        step: Says how.
        name: The step's.

    Returns:
        The model with other float weights, still to be narrowed by `code`.

    Raises:
        NotSupported: The graph has operators that cannot be trained.
        RunFailed: The loss lost all bounds.
    """
    floating, latents = with_latent_weights(load_named(model), places)
    start = context.work_directory / "floating.onnx"
    save(floating, start)
    context.report(0.0, f"asking the original about {items.count} items")
    of_answers = teaching(context.task, step.temperature, teacher_answers(context.original, items))

    graph = read_trainable(start)

    def feeds(numbers: torch.Tensor) -> dict[str, torch.Tensor]:
        narrow = {latent.name: latent.narrow(graph, code) for latent in latents}
        return {**items.feeds(numbers), **narrow}

    def loss(graph: TrainableGraph, numbers: torch.Tensor) -> torch.Tensor:
        return of_answers(graph(feeds(numbers)), numbers)

    return learn(
        name,
        start,
        graph,
        loss,
        items,
        context,
        training=step.training or Training(),
        feeds=feeds,
    )
