"""The four networks of the benchmarks: fixed random weights, shapes of real networks.

usage: python -m benchmarks.networks DIRECTORY
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from benchmarks.models import MODELS, TOKENS, VOCABULARY, file_of
from optimizers.demo.networks import TutorialNet, export


class Tiny(nn.Module):
    """A perceptron 64-64-10."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map float32 [batch, 64] to [batch, 10]."""
        answer: torch.Tensor = self.layers(x)
        return answer


class Block(nn.Module):
    """A residual block of ResNet-18, batch normalisation folded away."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride, 1)
        self.second = nn.Conv2d(after, after, 3, 1, 1)
        changes = stride != 1 or before != after
        self.short = nn.Conv2d(before, after, 1, stride) if changes else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [batch, before, h, w] to [batch, after, h / stride, w / stride]."""
        answer = self.second(functional.relu(self.first(x)))
        return functional.relu(answer + self.short(x))


class ResNet18(nn.Module):
    """ResNet-18 (He et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        widths = (64, 64, 128, 256, 512)
        blocks: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            blocks += [Block(before, after, 1 if before == after else 2), Block(after, after, 1)]
        self.stem = nn.Conv2d(3, 64, 7, 2, 3)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(512, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map float32 [batch, 3, 224, 224] to [batch, 1000]."""
        x = self.blocks(self.pool(functional.relu(self.stem(x))))
        answer: torch.Tensor = self.head(x.mean((2, 3)))
        return answer


class Encoder(nn.Module):
    """A sentence encoder of MiniLM's shape: 6 layers, 384 wide, 12 heads."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, 384)
        self.places = nn.Parameter(torch.randn(TOKENS, 384) * 0.02)
        self.layers = nn.Sequential(*(EncoderLayer() for _ in range(6)))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map int64 [batch, 128] to float32 [batch, 384]."""
        x = self.layers(self.words(tokens) + self.places)
        answer: torch.Tensor = x.mean(1)
        return answer


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward part, each with its residual."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(384, 3 * 384)
        self.out = nn.Linear(384, 384)
        self.one, self.two = nn.LayerNorm(384), nn.LayerNorm(384)
        self.forth, self.back = nn.Linear(384, 1536), nn.Linear(1536, 384)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [batch, 128, 384] to the same."""
        query, key, value = (
            part.unflatten(2, (12, 32)).transpose(1, 2) for part in self.mix(x).chunk(3, dim=2)
        )
        attended = functional.scaled_dot_product_attention(query, key, value)
        x = self.one(x + self.out(attended.transpose(1, 2).flatten(2)))
        answer: torch.Tensor = self.two(x + self.back(functional.gelu(self.forth(x))))
        return answer


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "tiny": Tiny,
    "lenet": TutorialNet,
    "resnet18": ResNet18,
    "minilm": Encoder,
}


def main(directory: Path) -> None:
    """Export every network with input `x`, output `y` and a dynamic batch."""
    for model in MODELS:
        path = file_of(directory, model.name)
        path.parent.mkdir(parents=True)
        torch.manual_seed(0)
        export(NETWORKS[model.name]().eval(), model.example(2), path, names=("x", "y"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
