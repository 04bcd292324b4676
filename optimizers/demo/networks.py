"""The demo's two networks: trained by torch on the spot, exported to ONNX."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from optimizers.demo.data import CLASSES, SIDE, Images

NAMES: Final = ("image", "logits")

_LARGEST_STEP: Final = 2e-3


class WidePerceptron(nn.Module):
    """Three fully connected layers. Wide enough that reading its weights is what takes time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(SIDE * SIDE, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, CLASSES),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map float32 [batch, 784] to logits [batch, 10]."""
        logits: torch.Tensor = self.layers(image)
        return logits


class TutorialNet(nn.Module):
    """The convolutional net of PyTorch's tutorials, letter for letter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, CLASSES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map float32 [batch, 3, 32, 32] to logits [batch, 10]."""
        x = self.pool(functional.relu(self.conv1(image)))
        x = self.pool(functional.relu(self.conv2(x)))
        x = torch.flatten(x, 1)
        x = functional.relu(self.fc1(x))
        x = functional.relu(self.fc2(x))
        logits: torch.Tensor = self.fc3(x)
        return logits


def flat_input(images: Images) -> NDArray[np.float32]:
    """float32 [items, 784] in 0 to 1."""
    return images.pixels.astype(np.float32) / np.float32(255)


def padded_input(images: Images) -> NDArray[np.float32]:
    """float32 [items, 3, 32, 32] in 0 to 1: a margin of two pixels, the same in every channel."""
    squares = flat_input(images).reshape(-1, 1, SIDE, SIDE)
    padded = np.pad(squares, ((0, 0), (0, 0), (2, 2), (2, 2)))
    return np.ascontiguousarray(np.repeat(padded, 3, axis=1))


def train(
    build: Callable[[], nn.Module],
    inputs: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    epochs: int,
    seed: int,
    batch: int = 64,
) -> nn.Module:
    """Train a new network with Adam and a one-cycle schedule.

    Args:
        build: Makes the network.
        inputs: First axis = items.
        labels: One class per item.
        epochs: Passes over the items.
        seed: Decides the first weights and the order of the items.
        batch: Items per step.
    """
    torch.manual_seed(seed)
    network = build()
    x, y = torch.from_numpy(inputs), torch.from_numpy(labels)
    optimizer = torch.optim.Adam(network.parameters(), lr=_LARGEST_STEP, weight_decay=1e-5)
    steps = epochs * -(-len(x) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LARGEST_STEP, total_steps=steps)
    network.train()
    for _ in range(epochs):
        for items in torch.split(torch.randperm(len(x)), batch):
            optimizer.zero_grad()
            loss = functional.cross_entropy(network(x[items]), y[items])
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    return network.eval()


def accuracy(network: nn.Module, inputs: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Share of items whose highest logit is the label."""
    with torch.inference_mode():
        answers = network(torch.from_numpy(inputs)).argmax(dim=1).numpy()
    return float((answers == labels).mean())


def export(
    network: nn.Module, example: NDArray[Any], path: Path, names: tuple[str, str] = NAMES
) -> None:
    """Write `network` as ONNX with a dynamic batch.

    Args:
        network: In evaluation mode.
        example: At least two items: a batch of one would be taken for a constant.
        path: The file; weights lie inside it.
        names: Of its input and its output.
    """
    name, output = names
    dynamic = {0: torch.export.Dim("batch")}
    export_named(network, {name: example}, path, output=output, dynamic=dynamic)


def export_named(
    network: nn.Module,
    examples: Mapping[str, NDArray[Any]],
    path: Path,
    *,
    output: str,
    dynamic: Mapping[int, torch.export.Dim],
) -> None:
    """Write a network of several inputs as ONNX.

    Args:
        network: In evaluation mode.
        examples: Input name → at least two items, in the order of the network's arguments.
        path: The file; weights lie inside it.
        output: Its name.
        dynamic: The axes of every input that have no fixed length, and their names.
    """
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(
            network,
            tuple(torch.from_numpy(example[:2]) for example in examples.values()),
            str(path),
            dynamo=True,
            external_data=False,
            verbose=False,
            input_names=list(examples),
            output_names=[output],
            dynamic_shapes=tuple(dict(dynamic) for _ in examples),
        )
