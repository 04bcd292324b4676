"""Networks of the common architectures, small and with random weights, exported to ONNX."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(after)
        self.second = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(after)
        self.shortcut = nn.Conv2d(before, after, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first_norm(self.first(x)))
        return torch.relu(self.second_norm(self.second(y)) + self.shortcut(x))


class ResidualNet(nn.Module):
    """Logits [batch, 5] of images [batch, 3, 16, 16], as ResNet does it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 1, 1)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.blocks = nn.Sequential(ResidualBlock(8, 8, 1), ResidualBlock(8, 12, 2))
        self.head = nn.Linear(12, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.blocks(self.pool(torch.relu(self.stem(image))))
        logits: Tensor = self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


class InvertedResidual(nn.Module):
    """Wider, depthwise, narrower: with a squeeze and a gate for each channel."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        wide = 4 * channels
        self.stride = stride
        self.expand = nn.Conv2d(channels, wide, 1)
        self.norm = nn.BatchNorm2d(wide)
        self.depthwise = nn.Conv2d(wide, wide, 3, stride, 0, groups=wide)
        self.squeeze = nn.Conv2d(wide, channels, 1)
        self.gate = nn.Conv2d(channels, wide, 1)
        self.project = nn.Conv2d(wide, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu6(self.norm(self.expand(x)))
        y = functional.pad(y, (0, 1, 0, 1) if self.stride > 1 else (1, 1, 1, 1))
        y = functional.hardswish(self.depthwise(y))
        gate = functional.silu(self.squeeze(y.mean((2, 3), keepdim=True)))
        y = self.project(y * torch.sigmoid(self.gate(gate)))
        result: Tensor = y if self.stride > 1 else x + y
        return result


class MobileNet(nn.Module):
    """Logits [batch, 5] of images [batch, 3, 16, 16], as EfficientNet-Lite and MobileNet do it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 2, 1)
        self.blocks = nn.Sequential(InvertedResidual(6, 1), InvertedResidual(6, 2))
        self.head = nn.Linear(6, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.blocks(functional.relu6(self.stem(image)))
        logits: Tensor = self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


class EncoderLayer(nn.Module):
    """Attention by plain products, then two layers, each with a norm after the sum."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.inner, self.outer = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.norm, self.last_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        for one in (self.query, self.key, self.value, self.out, self.inner, self.outer):
            nn.init.zeros_(one.bias)

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        def split(y: Tensor) -> Tensor:
            return y.view(y.shape[0], y.shape[1], self.heads, -1).transpose(1, 2)

        scores = split(self.query(x)) @ split(self.key(x)).transpose(-1, -2)
        scores = scores / (x.shape[-1] // self.heads) ** 0.5
        scores = torch.where(allowed, scores, torch.finfo(scores.dtype).min)
        mixed = torch.softmax(scores, -1) @ split(self.value(x))
        x = self.norm(x + self.out(mixed.transpose(1, 2).flatten(2)))
        normed: Tensor = self.last_norm(x + self.outer(functional.gelu(self.inner(x))))
        return normed


class Encoder(nn.Module):
    """Sentence vectors [batch, 16] of tokens and mask [batch, n], as all-MiniLM does it."""

    def __init__(self, width: int = 16, layers: int = 2) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(50, width), nn.Embedding(32, width)
        self.kinds, self.norm = nn.Embedding(2, width), nn.LayerNorm(width)
        self.layers = nn.ModuleList(EncoderLayer(width, 4) for _ in range(layers))
        self.pooler = nn.Linear(width, width)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device).unsqueeze(0)
        kinds = torch.zeros_like(tokens)
        x = self.norm(self.tokens(tokens) + self.places(places) + self.kinds(kinds))
        allowed = mask[:, None, None, :].bool().expand(-1, 1, tokens.shape[1], -1)
        for layer in self.layers:
            x = layer(x, allowed)
        weights = mask.unsqueeze(-1).float()
        mean = (x * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
        return functional.normalize(torch.tanh(self.pooler(mean)), dim=1)


def export(
    network: nn.Module, example: dict[str, Tensor], path: Path, *, dynamo: bool, opset: int
) -> Path:
    """Write a network in evaluation mode with a dynamic batch (and length of sequences).

    Args:
        network: Gives one tensor, called `answer` in the file.
        example: What it takes, by name, in order.
        path: The file.
        dynamo: By torch.export; else by TorchScript.
        opset: Of the file.
    """
    axes: dict[str, dict[int, str]] = {
        name: {0: "batch", 1: "n"} if one.ndim == 2 else {0: "batch"}
        for name, one in example.items()
    }
    dims = {name: torch.export.Dim(name) for name in ("batch", "n")}
    shapes = {name: {axis: dims[a] for axis, a in of.items()} for name, of in axes.items()}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(),
            tuple(example.values()),
            str(path),
            dynamo=dynamo,
            opset_version=opset,
            input_names=list(example),
            output_names=["answer"],
            verbose=False,
            external_data=False,
            **({"dynamic_shapes": shapes} if dynamo else {"dynamic_axes": axes}),
        )
    return path
