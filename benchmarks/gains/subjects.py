"""The models that gains are measured on: real data, trained here, written once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import nn

from benchmarks.gains.efficientnet import efficientnet
from benchmarks.gains.minilm import minilm
from benchmarks.gains.networks import CaffeLeNet, LeNet, ResNet8
from benchmarks.gains.subject import Subject
from optimizers.contract.profile import Task
from optimizers.demo.data import SIDE, Images, fashion_parts
from optimizers.demo.networks import (
    TutorialNet,
    accuracy,
    export,
    flat_input,
    padded_input,
    train,
)

_CALIBRATION: Final = 512
_SEARCH: Final = 5_000
_SEED: Final = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    about: str
    build: Callable[[], nn.Module]
    inputs: Callable[[Images], NDArray[np.float32]]
    epochs: int


def _square_input(images: Images) -> NDArray[np.float32]:
    """float32 [items, 1, 28, 28] in 0 to 1."""
    return flat_input(images).reshape(-1, 1, SIDE, SIDE)


PLANS: Final[dict[str, _Plan]] = {
    "tutorial": _Plan(
        about="The convolutional net of PyTorch's tutorials (62,006 parameters), 3 x 32 x 32",
        build=TutorialNet,
        inputs=padded_input,
        epochs=4,
    ),
    "lenet": _Plan(
        about="LeNet-5 (44,426 parameters), 1 x 28 x 28",
        build=LeNet,
        inputs=_square_input,
        epochs=4,
    ),
    "caffe_lenet": _Plan(
        about="Caffe's wider LeNet-5 (431,080 parameters), 1 x 28 x 28",
        build=CaffeLeNet,
        inputs=_square_input,
        epochs=4,
    ),
    "resnet8": _Plan(
        about="ResNet-8 (78,000 parameters), 1 x 28 x 28",
        build=ResNet8,
        inputs=_square_input,
        epochs=8,
    ),
}


_BROUGHT: Final = {"efficientnet": efficientnet, "minilm": minilm}
"""Models that come with their weights."""


def subject(name: str, directory: Path, tell: Callable[[str], None]) -> Subject:
    """The model of this name; trained and written below `directory` when it is not there yet.

    Of Fashion-MNIST's 60,000 training images 512 calibrate, 5,000 are for the search of recipes
    and train nothing, and all others train the model and are what steps may train on. The 10,000
    test images are the gate's, which judges once.

    Raises:
        InvalidData: Fashion-MNIST, or what another model needs, is not installed.
    """
    if name in _BROUGHT:
        return _BROUGHT[name](directory, tell)
    plan, home = PLANS[name], directory / name
    parts = ("calibration", "train", "search", "gate")
    files = {part: home / f"{part}.npz" for part in parts}
    model = home / "model.onnx"
    if not model.exists():
        home.mkdir(parents=True, exist_ok=True)
        _write(plan, model, files, tell)
    about = (
        f"{plan.about}, trained {plan.epochs} epochs on Fashion-MNIST. Of its 60,000 training "
        f"images {_CALIBRATION} calibrate, {_SEARCH:,} train nothing and chose the recipes' "
        "settings, all others train; the 10,000 test images judge"
    )
    return Subject(name=name, about=about, task=Task.CLASSIFICATION, model=model, data=files)


def _write(plan: _Plan, model: Path, files: dict[str, Path], tell: Callable[[str], None]) -> None:
    images, gate = fashion_parts()
    order = np.random.default_rng(_SEED).permutation(len(images))
    calibration, search, rest = (
        images.take(part) for part in np.split(order, (_CALIBRATION, _CALIBRATION + _SEARCH))
    )
    inputs = plan.inputs(rest)
    network = train(plan.build, inputs, rest.labels, epochs=plan.epochs, seed=_SEED)
    right = accuracy(network, plan.inputs(gate), gate.labels)
    tell(f"{model.parent.name}: accuracy {right:.2%} on {len(gate):,} test images")
    taken = {"calibration": calibration, "train": rest, "search": search, "gate": gate}
    for part, items in taken.items():
        np.savez_compressed(files[part], image=plan.inputs(items), labels=items.labels)
    unfinished = model.with_suffix(".part")
    export(network, inputs, unfinished)
    unfinished.rename(model)
