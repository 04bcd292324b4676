"""The networks that the gains are measured on, beside the demo's."""

from __future__ import annotations

import torch
from torch import nn

from optimizers.demo.data import CLASSES

_WIDTHS = (16, 32, 64)


class LeNet(nn.Module):
    """LeNet-5 without padding: two convolutions and three linear layers, 44,426 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2, 2)),
            *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2, 2)),
        )
        self.classes = nn.Sequential(
            *(nn.Flatten(), nn.Linear(256, 120), nn.ReLU()),
            *(nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, CLASSES)),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map float32 [batch, 1, 28, 28] to logits [batch, 10]."""
        logits: torch.Tensor = self.classes(self.features(image))
        return logits


class CaffeLeNet(nn.Module):
    """LeNet-5 as Caffe had it and pruning is tried on since: 431,080 parameters.

    Han et al. 2015, arXiv 1506.02626.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(1, 20, 5), nn.MaxPool2d(2, 2)),
            *(nn.Conv2d(20, 50, 5), nn.MaxPool2d(2, 2)),
        )
        self.classes = nn.Sequential(
            *(nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, CLASSES))
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map float32 [batch, 1, 28, 28] to logits [batch, 10]."""
        logits: torch.Tensor = self.classes(self.features(image))
        return logits


class _Block(nn.Module):
    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(inside, width, 3, stride, 1, bias=False)
        self.norm_one = nn.BatchNorm2d(width)
        self.two = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm_two = nn.BatchNorm2d(width)
        self.short = nn.Identity() if inside == width else nn.Conv2d(inside, width, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm_one(self.one(x)))
        return torch.relu(self.norm_two(self.two(y)) + self.short(x))


class ResNet8(nn.Module):
    """A first convolution, three residual blocks of two, one linear layer: 78,000 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, _WIDTHS[0], 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(_WIDTHS[0])
        self.blocks = nn.Sequential(
            _Block(_WIDTHS[0], _WIDTHS[0], 1),
            _Block(_WIDTHS[0], _WIDTHS[1], 2),
            _Block(_WIDTHS[1], _WIDTHS[2], 2),
        )
        self.last = nn.Linear(_WIDTHS[-1], CLASSES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map float32 [batch, 1, 28, 28] to logits [batch, 10]."""
        x = self.blocks(torch.relu(self.norm(self.first(image))))
        logits: torch.Tensor = self.last(x.mean(dim=(2, 3)))
        return logits
