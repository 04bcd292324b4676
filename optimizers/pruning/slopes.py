"""How much a loss hangs on every weight, to first order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from optimizers.contract.errors import NotSupported
from optimizers.contract.profile import Task
from optimizers.learning.items import TrainingItems, teacher_answers, training_items
from optimizers.learning.labels import label_loss
from optimizers.learning.teaching import teaching
from optimizers.saving import save
from optimizers.step import StepContext
from optimizers.trainable import TrainableGraph, read_trainable

Slopes = dict[str, NDArray[np.float64]]
"""Name of a stored tensor → |w ∂L/∂w| of each of its numbers, in its shape."""

_ITEMS_AT_ONCE: Final = 16
_FLAT: Final = 1e-6
_TEMPERATURE: Final = 1.0

_Loss = Callable[[dict[str, torch.Tensor], torch.Tensor], torch.Tensor]


def weight_slopes(model: onnx.ModelProto, samples: int, context: StepContext) -> Slopes:
    """Mean over batches of |w ∂L/∂w|, how far L moves when a weight becomes 0, to first order.

    L is the cross-entropy of the labels; without labels that of the classes which the original
    answers, or, where there are no classes, the distance from its answers.

    Args:
        model: Its constants stored.
        samples: At most so many training items, in the order of the context's seed:
            files are often sorted by class.
        context: Of the step.

    Returns:
        Of every weight, bias and scale that can be trained.

    Raises:
        NotSupported: The graph cannot be trained, the loss is no finite number, or the distance
            from the original's answers is zero, as before any other step, and so has no slope.
        InvalidData: There are no training items.
    """
    path = context.work_directory / "sloped.onnx"
    save(model, path)
    items = _drawn(training_items("prune_channels", path, context), samples, context.seed)
    graph = read_trainable(path).eval()
    loss = _loss(items, context)
    names = list(graph.weight_names())
    totals = {name: torch.zeros_like(graph.weight(name), dtype=torch.float64) for name in names}
    batches = torch.split(torch.arange(items.count), _ITEMS_AT_ONCE)
    distance = 0.0
    for numbers in batches:
        graph.zero_grad()
        value = loss(graph(items.feeds(numbers)), numbers)
        torch.autograd.backward(value)
        distance += float(value.detach()) / len(batches)
        _add(totals, graph, 1 / len(batches))
    if not np.isfinite([distance, *(float(total.sum()) for total in totals.values())]).all():
        raise NotSupported(
            "prune_channels with importance taylor needs slopes that are finite numbers, and those "
            "of this model's loss are not; use another importance"
        )
    if distance < _FLAT:
        raise NotSupported(
            f"prune_channels with importance taylor needs a loss with a slope, and it is "
            f"{distance:.2g} here, as where a model answers like the original; add labels to "
            "data.train or use importance activation"
        )
    return {name: total.numpy() for name, total in totals.items()}


def _add(totals: dict[str, torch.Tensor], graph: TrainableGraph, share: float) -> None:
    for name, total in totals.items():
        weight = graph.weight(name)
        if weight.grad is not None:
            total += share * (weight.detach().double() * weight.grad.double()).abs()


def _drawn(items: TrainingItems, count: int, seed: int) -> TrainingItems:
    chosen = np.random.default_rng(seed).permutation(items.count)[:count]
    return replace(
        items,
        arrays={name: array[chosen] for name, array in items.arrays.items()},
        labels=None if items.labels is None else items.labels[torch.from_numpy(chosen)],
        count=len(chosen),
        clusters=None,
    )


def _loss(items: TrainingItems, context: StepContext) -> _Loss:
    scores = items.class_output if context.task is Task.CLASSIFICATION else None
    if scores is None:
        return teaching(context.task, _TEMPERATURE, teacher_answers(context.original, items))
    if items.labels is None:
        answers = teacher_answers(context.original, items)[scores]
        chosen = [part.argmax(dim=1) for part in answers.parts()]
        items = replace(items, labels=torch.cat(chosen))
    known = items
    return lambda found, numbers: label_loss(found[scores], known, numbers)
