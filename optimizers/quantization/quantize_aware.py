"""Quantisation-aware training: the model learns while its weights and activations are rounded.

The gradient passes a rounding as if it were the identity (straight-through estimator; Bengio 2013,
arXiv 1308.3432; Jacob et al. 2018, arXiv 1712.05877). The teacher is the original.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import onnx
import torch

from optimizers.contract.quantization import QuantizeAware
from optimizers.learning.items import teacher_answers, training_items
from optimizers.learning.learn import learn
from optimizers.learning.teaching import teaching
from optimizers.quantization import static_int8
from optimizers.quantization.rounding import Rounded, with_float_weights, with_integer_weights
from optimizers.saving import save
from optimizers.step import StepContext, StepResult
from optimizers.trainable import TrainableGraph, read_trainable

_CALIBRATED = 0.2
"""Share of the work that quantising is; the rest is training."""


def apply(model: Path, step: QuantizeAware, context: StepContext) -> StepResult:
    """Quantise the model and train it as it is then; see `optimizers.step`.

    Raises:
        NotSupported: The graph has operators that cannot be trained.
        InvalidData: There are no calibration or training items.
    """
    items = training_items("quantize_aware", model, context)
    quantised = static_int8.apply(model, step.int8, context.part("int8", 0.0, _CALIBRATED))
    if not quantised.modified:
        return quantised
    floating, weights = with_float_weights(onnx.load(str(quantised.model)))
    start = context.work_directory / "floating.onnx"
    save(floating, start)
    of_answers = teaching(context.task, step.temperature, teacher_answers(context.original, items))

    def loss(graph: TrainableGraph, numbers: torch.Tensor) -> torch.Tensor:
        return of_answers(graph(items.feeds(numbers)), numbers)

    graph = read_trainable(start)
    trained = learn(
        "quantize_aware",
        start,
        graph,
        loss,
        items,
        context.part("training", _CALIBRATED, 1.0),
        training=step.training,
        after_step=_within_limits(graph, weights),
    )
    notes = (*quantised.notes, *trained.notes)
    if not trained.modified:
        return replace(quantised, notes=notes)
    target = context.work_directory / "quantize_aware.onnx"
    save(with_integer_weights(onnx.load(str(trained.model)), weights), target)
    return StepResult(model=target, session=context.session, modified=True, notes=notes)


def _within_limits(graph: TrainableGraph, weights: Sequence[Rounded]) -> Callable[[], None]:
    """Keeps weights where their integers can follow."""
    kept = [
        (graph.weight(one.float_name), *map(torch.from_numpy, one.limits()))
        for one in weights
        if one.float_name in graph.weight_names()
    ]

    def clip() -> None:
        with torch.no_grad():
            for weight, lowest, highest in kept:
                weight.copy_(weight.clamp(lowest, highest))

    return clip
