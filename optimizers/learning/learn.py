"""What every step that trains does around its loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import torch
from torch import nn

from optimizers.contract.errors import InvalidDocument
from optimizers.contract.training import Training
from optimizers.learning.items import TrainingItems
from optimizers.learning.normalization import fold_batch_norm
from optimizers.step import StepContext, StepResult
from optimizers.trainable import TrainableGraph, reestimate_batch_norm, write_trainable
from optimizers.training import Settle, train

_MANY: Final = 0.05
"""Share of weights that are zero by somebody's doing."""

GraphLoss = Callable[[TrainableGraph, torch.Tensor], torch.Tensor]
"""Mean loss of a graph on the items with these numbers, int64 [items]."""

FeedsOf = Callable[[torch.Tensor], Mapping[str, torch.Tensor]]
"""A graph's inputs for the items with these numbers."""


def learn(
    step: str,
    model: Path,
    graph: TrainableGraph,
    loss: GraphLoss,
    items: TrainingItems,
    context: StepContext,
    *,
    training: Training,
    feeds: FeedsOf | None = None,
    freeze: Sequence[str] = (),
    fold: bool = False,
    keep_zeros: bool = False,
    beside: nn.Module | None = None,
    after_step: Callable[[], None] = lambda: None,
) -> StepResult:
    """Train `graph`, and keep what it learned if its held-out loss fell.

    Args:
        step: Its name, for errors and for the file.
        model: What `graph` was read from.
        graph: What trains.
        loss: What is to fall.
        items: What it trains on; those of one cluster are held out together.
        context: Of the step.
        training: The strategy.
        feeds: What `graph` is given, if more than the items' inputs; its running statistics are
            estimated anew where weights changed without them.
        freeze: Weights that stay as they are.
        fold: Whether `graph` has normalisations that were inserted, which are folded again.
        keep_zeros: Whether weights that are zero stay so.
        beside: What learns with the graph and is thrown away after that.
        after_step: Called after each change of the weights.

    Raises:
        InvalidDocument: `freeze` names what is no weight.
        RunFailed: The loss lost all bounds.
    """
    trainable = _thaw(step, graph, freeze)
    if not trainable:
        what = "every weight is frozen" if freeze else "the model has no weights to train"
        return context.unchanged(model, what)
    zeros = _Zeros(trainable)
    if keep_zeros:
        after_step = _both(after_step, zeros.put_back)
    modules = nn.ModuleList([graph] if beside is None else [graph, beside])
    trained = train(
        modules,
        items.count,
        lambda numbers: loss(graph, numbers),
        training,
        seed=context.seed,
        report=context.report,
        after_step=after_step,
        settle=_settle(graph, feeds or items.feeds),
        clusters=items.clusters,
    )
    if not trained.after < trained.before:
        return context.unchanged(model, f"{trained}; it did not fall, so nothing was kept")
    target = context.work_directory / f"{step}.onnx"
    write_trainable(graph, target)
    if fold:
        fold_batch_norm(target, target)
    count = sum(parameter.numel() for parameter in trainable)
    notes = (f"{trained}; {count} parameters in {len(trainable)} weights", *zeros.notes())
    return StepResult(model=target, session=context.session, modified=True, notes=notes)


def _settle(graph: TrainableGraph, feeds: FeedsOf) -> Settle | None:
    if not graph.statistics_names():
        return None

    def settle(batches: Sequence[torch.Tensor]) -> None:
        reestimate_batch_norm(graph, map(feeds, batches))

    return settle


class _Zeros:
    """Weights that were zero before the training."""

    def __init__(self, weights: Sequence[nn.Parameter]) -> None:
        self._were = [(one, one.detach() == 0) for one in weights if one.ndim > 1]

    def put_back(self) -> None:
        """Make them zero again."""
        with torch.no_grad():
            for weight, was_zero in self._were:
                weight.masked_fill_(was_zero, 0.0)

    def notes(self) -> tuple[str, ...]:
        """What became of them, where there were many."""
        size = sum(weight.numel() for weight, _ in self._were)
        before = sum(int(was_zero.sum()) for _, was_zero in self._were)
        after = sum(int((weight == 0).sum()) for weight, _ in self._were)
        if before < _MANY * size or after >= before:
            return ()
        return (
            f"{before / size:.1%} of the weights were zero, {after / size:.1%} still are; "
            "keep_zeros: true keeps them so",
        )


def _both(one: Callable[[], None], other: Callable[[], None]) -> Callable[[], None]:
    def call() -> None:
        one()
        other()

    return call


def _thaw(step: str, graph: TrainableGraph, freeze: Sequence[str]) -> list[nn.Parameter]:
    """Let every weight train but those named; the parameters that do."""
    weights = {name: graph.weight(name) for name in graph.weight_names()}
    unknown = [name for name in freeze if name not in weights]
    if unknown:
        raise InvalidDocument(
            f"{step}.freeze names {', '.join(unknown)}; the model's weights are "
            f"{', '.join(weights) or 'none'}"
        )
    for name, parameter in weights.items():
        parameter.requires_grad_(name not in freeze)
    return [parameter for parameter in weights.values() if parameter.requires_grad]
