"""Real digits to train on, and how well models read them."""

from __future__ import annotations

from contextlib import closing
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from optimizers.contract.distillation import Finetune
from optimizers.contract.profile import Task
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.contract.training import Training
from optimizers.demo.data import Dataset, SplitSizes, load_splits
from optimizers.demo.networks import flat_input
from optimizers.step import StepContext
from optimizers.techniques import apply_step
from tests.support import models
from tests.support.contexts import step_context

SHORT = Training(epochs=4, batch_size=32, learning_rate=3e-3)
Digits = dict[str, tuple[NDArray[np.float32], NDArray[np.int64]]]


@cache
def digits() -> Digits:
    """MNIST digits, float32 [items, 784] and their labels; 1500 to train, 1000 to look at."""
    splits = load_splits(Dataset.MNIST_5K, SplitSizes(train=1500, search=1000), seed=0)
    return {
        name: (flat_input(images), images.labels)
        for name, images in (
            ("calibration", splits.calibration),
            ("train", splits.train),
            ("search", splits.search),
        )
    }


def training_context(directory: Path) -> StepContext:
    """A step's context with digits to calibrate and to train on."""
    data = {}
    for name in ("calibration", "train"):
        images, labels = digits()[name]
        data[name] = directory / f"{name}.npz"
        np.savez(data[name], x=images, labels=labels)
    return step_context(directory, task=Task.CLASSIFICATION, data=data, original="original.onnx")


def answers(model: Path) -> NDArray[np.float32]:
    """Logits [1000, 10] of the digits to look at."""
    with closing(Session(model, SessionSpec())) as session:
        logits: NDArray[np.float32] = session.run({"x": digits()["search"][0]})[0]
    return logits


def accuracy(model: Path) -> float:
    """Share of right answers."""
    return float((answers(model).argmax(axis=1) == digits()["search"][1]).mean())


def agreement(one: Path, other: Path) -> float:
    """Share of the same answers."""
    classes = [answers(model).argmax(axis=1) for model in (one, other)]
    return float((classes[0] == classes[1]).mean())


def untrained(path: Path, width: int = 48, seed: int = 0) -> Path:
    """A perceptron with random weights: w0, b0, w1, b1."""
    return models.perceptron(path, sizes=(784, width, 10), seed=seed)


def train_original(context: StepContext, width: int = 96) -> None:
    """Write a perceptron that reads digits as the original; the labels are gone after that."""
    start = untrained(context.original.with_name("start.onnx"), width=width)
    result = apply_step(start, Finetune(training=SHORT), context)
    context.original.write_bytes(result.model.read_bytes())
    np.savez(context.data["train"], x=digits()["train"][0])
