"""One training loop for every step that trains.

It knows no network and no loss: it asks for the mean loss of items by their numbers.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import nn

from optimizers.contract.errors import RunFailed
from optimizers.contract.training import Training

LossOf = Callable[[torch.Tensor], torch.Tensor]
"""Takes the numbers of some items, int64 [items]; gives their mean loss, a scalar to derive."""

Settle = Callable[[Sequence[torch.Tensor]], None]
"""Takes batches of items by their numbers, of which statistics are to be made."""

_SETTLED_ON: Final = 512
"""Items that statistics are made of."""

_HELD_OUT: Final = 0.1
"""Share of the items whose loss is watched and which train nothing."""

_FEWEST_TO_HOLD_OUT: Final = 20
_EPSILON: Final = 1e-8
_EPSILON_OF_HALVES: Final = 1e-4
"""Anything much smaller is zero in float16."""

_RISE: Final = 0.3
_START_DIVISOR: Final = 25.0
_END_DIVISOR: Final = 1e4


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """How a training went.

    Attributes:
        epochs: Passes over the items, those included whose weights were not kept.
        before: Mean loss of the held-out items before it.
        settled: The same once `settle` had its effect, where it was kept.
        after: The same with the weights that were kept.
        held_out: How many items these were; they are training items where there are few.
        stopped_early: Whether patience ended it.
    """

    epochs: int
    before: float
    settled: float
    after: float
    held_out: int
    stopped_early: bool

    def __str__(self) -> str:
        early = ", stopped early" if self.stopped_early else ""
        is_new = self.settled < self.before
        new = f", {self.settled:.4g} with statistics estimated anew" if is_new else ""
        return (
            f"trained {self.epochs} epochs{early}: loss of {self.held_out} held-out items "
            f"{self.before:.4g} before{new}, {self.after:.4g} after"
        )


def train(
    module: nn.Module,
    items: int,
    loss_of: LossOf,
    training: Training,
    *,
    seed: int,
    report: Callable[[float, str], None],
    after_step: Callable[[], None] = lambda: None,
    settle: Settle | None = None,
    clusters: torch.Tensor | None = None,
) -> Trained:
    """Change the parameters of `module` that want a gradient, so that the loss falls.

    Args:
        module: What `loss_of` computes with.
        items: How many there are.
        loss_of: Called in training mode for a step, in evaluation mode for held-out items.
        training: The strategy.
        seed: Of the order of items and of everything random in `module`.
        report: Takes the share that is done, in [0, 1], and a text.
        after_step: Called after each change, for example to put zeros back.
        settle: Called where weights changed and what follows the data did not: before the first
            step, where its effect is kept if the held-out loss falls by it, and whenever an
            average took the place of the weights.
        clusters: Of each item the number of its cluster, int64 [items]: one whose neighbours
            train is no stranger to what they teach, so that clusters are held out whole.

    Raises:
        RunFailed: The loss became infinite or no number.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _Loop(module, items, loss_of, training, seed, after_step, settle, clusters).run(
            report
        )


def rate_share(training: Training, step: int, steps: int) -> float:
    """The learning rate of one step as a share of the largest; `step` counts from 0.

    Formulas: cosine (1 + cos πt) / 2 with t from 0 to 1; one cycle rises by half a cosine from
    1/25 in the first 30 % and falls to 1/250,000.
    """
    if training.schedule == "one_cycle":
        return _one_cycle(step, steps)
    rising = int(training.warm_up * steps)
    if step < rising:
        return (step + 1) / rising
    t = (step - rising) / max(1, steps - rising)
    if training.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * t))
    if training.schedule == "step":
        return 1.0 if t < 0.5 else 0.1 if t < 0.75 else 0.01
    return 1.0


def _one_cycle(step: int, steps: int) -> float:
    if steps == 1:
        return 1.0
    top = _RISE * steps - 1
    lowest, last = 1 / _START_DIVISOR, 1 / (_START_DIVISOR * _END_DIVISOR)
    if step <= top:
        return _between(lowest, 1.0, step / top if top > 0 else 1.0)
    return _between(1.0, last, (step - top) / max(1e-9, steps - 1 - top))


def _between(start: float, end: float, t: float) -> float:
    """From `start` to `end` along half a cosine."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, t)))


class _Loop:
    def __init__(
        self,
        module: nn.Module,
        items: int,
        loss_of: LossOf,
        training: Training,
        seed: int,
        after_step: Callable[[], None],
        settle: Settle | None,
        clusters: torch.Tensor | None,
    ) -> None:
        self._module, self._loss_of, self._training = module, loss_of, training
        self._after_step = after_step
        self._settle = settle
        self._order = torch.Generator().manual_seed(seed)
        shuffled = torch.randperm(items, generator=self._order)
        watched = _watched(shuffled, clusters)
        self._held_out = shuffled[watched] if watched.any() else shuffled
        self._items = shuffled[~watched]
        self._parameters = [one for one in module.parameters() if one.requires_grad]
        self._optimizer = _optimizer(training, self._parameters)
        forward = len(_batches(self._items, training.batch_size))
        self._steps_per_epoch = -(-forward // training.accumulate)
        self._steps = training.epochs * self._steps_per_epoch
        self._step = 0
        self._average: list[torch.Tensor] | None = None

    def run(self, report: Callable[[float, str], None]) -> Trained:
        training = self._training
        before = self._watched_loss()
        best = settled = self._settle_if_better(before)
        kept = copy.deepcopy(self._module.state_dict()) if training.patience else {}
        since = epochs = 0
        for epoch in range(1, training.epochs + 1):
            for loss in self._epoch():
                share = self._step / self._steps
                report(share, f"epoch {epoch} of {training.epochs}, loss {loss:.4g}")
            epochs = epoch
            if not training.patience:
                continue
            state, found = self._as_kept()
            since = 0 if found < best else since + 1
            if found < best:
                best, kept = found, state
            if since >= training.patience:
                break
        if training.patience:
            self._module.load_state_dict(kept)
        else:
            self._take_average()
        return Trained(
            epochs=epochs,
            before=before,
            settled=settled,
            after=self._watched_loss(),
            held_out=len(self._held_out),
            stopped_early=epochs < training.epochs,
        )

    def _settle_if_better(self, before: float) -> float:
        """The held-out loss from which the training starts."""
        if self._settle is None:
            return before
        former = copy.deepcopy(self._module.state_dict())
        self._settle_now()
        after = self._watched_loss()
        if after < before:
            return after
        self._module.load_state_dict(former)
        return before

    def _settle_now(self) -> None:
        if self._settle is not None:
            size = max(2, self._training.batch_size)
            self._settle(_batches(self._items[:_SETTLED_ON], size))

    def _epoch(self) -> Iterator[float]:
        """The loss of each step of one pass over the items."""
        training = self._training
        order = torch.randperm(len(self._items), generator=self._order)
        batches = _batches(self._items[order], training.batch_size)
        for start in range(0, len(batches), training.accumulate):
            together = batches[start : start + training.accumulate]
            self._module.train()
            self._optimizer.zero_grad(set_to_none=True)
            count, total = sum(map(len, together)), 0.0
            for numbers in together:
                loss = self._loss_of(numbers) * (len(numbers) / count)
                torch.autograd.backward(loss)
                total += float(loss.detach())
            if not math.isfinite(total):
                raise RunFailed(
                    f"training diverged: the loss of step {self._step + 1} is {total}; try a "
                    f"training.learning_rate below {training.learning_rate:g}, or clip_norm"
                )
            self._change()
            yield total

    def _change(self) -> None:
        training = self._training
        if training.clip_norm:
            nn.utils.clip_grad_norm_(self._parameters, training.clip_norm)
        rate = training.learning_rate * rate_share(training, self._step, self._steps)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._after_step()
        self._step += 1
        if training.ema:
            self._update_average()

    def _update_average(self) -> None:
        if self._average is None:
            self._average = [one.detach().clone() for one in self._parameters]
            return
        decay = min(self._training.ema, (1 + self._step) / (10 + self._step))
        for kept, now in zip(self._average, self._parameters, strict=True):
            kept.lerp_(now.detach(), 1 - decay)

    def _take_average(self) -> None:
        if self._average is not None:
            with torch.no_grad():
                for parameter, kept in zip(self._parameters, self._average, strict=True):
                    parameter.copy_(kept)
            self._after_step()
            self._settle_now()

    def _as_kept(self) -> tuple[dict[str, torch.Tensor], float]:
        """The weights as they would be kept now, and the held-out items' loss with them."""
        former = copy.deepcopy(self._module.state_dict())
        self._take_average()
        state, loss = copy.deepcopy(self._module.state_dict()), self._watched_loss()
        self._module.load_state_dict(former)
        return state, loss

    def _watched_loss(self) -> float:
        was_training = self._module.training
        self._module.eval()
        total = 0.0
        with torch.no_grad():
            for numbers in torch.split(self._held_out, self._training.batch_size):
                total += float(self._loss_of(numbers)) * len(numbers)
        self._module.train(was_training)
        return total / max(1, len(self._held_out))


def _watched(shuffled: torch.Tensor, clusters: torch.Tensor | None) -> torch.Tensor:
    """Which of the items in this order are held out, bool; none of few or of a single cluster."""
    watched = torch.zeros(len(shuffled), dtype=torch.bool)
    wanted = int(_HELD_OUT * len(shuffled)) if len(shuffled) >= _FEWEST_TO_HOLD_OUT else 0
    if clusters is None:
        watched[:wanted] = True
        return watched
    ordered = clusters[shuffled]
    sizes = torch.bincount(clusters).tolist()
    chosen, count = [], 0
    for cluster in dict.fromkeys(ordered.tolist()):
        if count >= wanted:
            break
        if 2 * (count + sizes[cluster]) <= len(shuffled):  # most items are to train
            chosen.append(cluster)
            count += sizes[cluster]
    return torch.isin(ordered, torch.tensor(chosen, dtype=ordered.dtype))


def _batches(items: torch.Tensor, size: int) -> list[torch.Tensor]:
    """The items in batches; one that would be left alone joins the last, for its statistics."""
    batches = list(torch.split(items, size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def _optimizer(training: Training, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if training.optimizer == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=training.learning_rate,
            momentum=training.momentum,
            nesterov=training.nesterov,
            weight_decay=training.weight_decay,
        )
    halves = any(parameter.dtype == torch.float16 for parameter in parameters)
    return torch.optim.AdamW(
        parameters,
        lr=training.learning_rate,
        weight_decay=training.weight_decay,
        eps=_EPSILON_OF_HALVES if halves else _EPSILON,
    )
