"""What a student is told of its distance from a teacher; every loss is a mean over items."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import torch
from torch.nn import functional

_SMALLEST: Final = 1e-12


def softened_divergence(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float
) -> torch.Tensor:
    """T² KL(softmax(t / T) ‖ softmax(s / T)) (Hinton, Vinyals and Dean 2015, arXiv 1503.02531).

    Args:
        student: Logits s, float [items, classes].
        teacher: Logits t of the same items.
        temperature: T, above 0.
    """
    soft = functional.log_softmax(teacher / temperature, dim=1)
    own = functional.log_softmax(student / temperature, dim=1)
    divergence = functional.kl_div(own, soft, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def as_logits(parts: Iterable[torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """What makes logits of an output [items, classes]: the logarithm, where it gives probabilities.

    Args:
        parts: Of that output; probabilities where no number is negative and rows sum to 1.
    """
    if all(_are_probabilities(part) for part in parts):
        return lambda probabilities: probabilities.clamp_min(_SMALLEST).log()
    return lambda logits: logits


def _are_probabilities(answers: torch.Tensor) -> bool:
    sums = answers.detach().sum(dim=1)
    return bool((answers >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-3)


def cosine_distance(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """1 - s·t / (|s| |t|) over the last axis, for embeddings [items, ..., size]."""
    return (1 - functional.cosine_similarity(student, teacher, dim=-1)).mean()


def relative_error(student: torch.Tensor, teacher: torch.Tensor, size: float) -> torch.Tensor:
    """Mean (s - t)² over `size`, the mean t² of all items: the inverse of the SQNR."""
    return functional.mse_loss(student, teacher) / size


def mean_square(parts: Iterable[torch.Tensor]) -> float:
    """Mean t² of an output that comes in parts, above 0."""
    total, count = 0.0, 0
    for part in parts:
        total += float(part.double().square().sum())
        count += part.numel()
    return max(_SMALLEST, total / max(1, count))


def attention_distance(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean |Q_s / ‖Q_s‖ - Q_t / ‖Q_t‖|², Q = mean of squares over channels.

    Attention transfer (Zagoruyko and Komodakis 2017, arXiv 1612.03928).

    Args:
        student: Activations [items, channels, ...]; the number of channels may differ.
        teacher: Of the same items, with the same places.
    """
    one, other = (
        functional.normalize(tensor.square().mean(dim=1).flatten(1), dim=1)
        for tensor in (student, teacher)
    )
    return (one - other).square().sum(dim=1).mean()


class Projection(torch.nn.Module):
    """Maps a student's features to a teacher's, as FitNets do (Romero 2015, arXiv 1412.6550).

    A learned matrix over the channels: axis 1 of images [items, channels, ...], the last axis of
    anything else.
    """

    def __init__(self, student: torch.Tensor, teacher: torch.Tensor) -> None:
        """For tensors of these forms; where the channels are as many it starts as the identity."""
        super().__init__()
        self._axis = 1 if student.ndim > 3 else -1
        channels, wanted = student.shape[self._axis], teacher.shape[self._axis]
        weight = torch.empty(wanted, channels)
        torch.nn.init.orthogonal_(weight)
        if channels == wanted:
            weight = torch.eye(channels)
        self.weight = torch.nn.Parameter(weight)

    def forward(self, student: torch.Tensor) -> torch.Tensor:
        """The student's features in the teacher's channels."""
        moved = student.movedim(self._axis, -1)
        return functional.linear(moved, self.weight).movedim(-1, self._axis)
