"""PyTorch programs as `torch.export` saves them, and hostile ones."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

ROWS = torch.export.Dim("rows")


class SmallNetwork(nn.Module):
    """Convolution, batch normalisation, pooling, product: `image` (n, 1, 8, 8) → (n, 10)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.convolution = nn.Conv2d(1, 8, 3, padding=1)
        self.normalization = nn.BatchNorm2d(8)
        self.product = nn.Linear(8 * 4 * 4, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        found = torch.relu(self.normalization(self.convolution(image)))
        pooled = nn.functional.max_pool2d(found, 2)
        return self.product(pooled.flatten(1))  # type: ignore[no-any-return]


def save_program(
    path: Path,
    module: nn.Module,
    arguments: tuple[Any, ...],
    dynamic_shapes: Any = None,
) -> Path:
    """Export a module in evaluation mode and save it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module.eval(), arguments, dynamic_shapes=dynamic_shapes)
        torch.export.save(program, path)
    return path


def small_network(path: Path, *, fixed_rows: int = 0) -> Path:
    """Save a `SmallNetwork`, for any number of rows or for `fixed_rows` exactly."""
    shapes = None if fixed_rows else ({0: ROWS},)
    return save_program(path, SmallNetwork(), (torch.zeros(fixed_rows or 2, 1, 8, 8),), shapes)


def hostile_program(path: Path, code: str) -> Path:
    """A program whose example inputs, when they are unpickled, run `code`."""

    class Planted:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
            return exec, (code,)

    small_network(path)
    pickled = io.BytesIO()
    torch.save(Planted(), pickled)
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in content.items():
            is_planted = name.endswith("sample_inputs/model.pt")
            archive.writestr(name, pickled.getvalue() if is_planted else data)
    return path
