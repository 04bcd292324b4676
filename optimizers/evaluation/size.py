"""What both models take on disk, as a figure."""

from __future__ import annotations

from pathlib import Path

from optimizers.contract.evaluation import Estimate, Figure
from optimizers.contract.goal import FigureName
from optimizers.contract.onnx_file import read_onnx_file


def size_figure(original: Path, variant: Path) -> Figure:
    """Bytes of both models' files, weights in files of their own included; exact."""
    one, other = read_onnx_file(original).size_bytes, read_onnx_file(variant).size_bytes

    def exact(value: float) -> Estimate:
        return Estimate(value=value, lower=value, upper=value)

    return Figure(
        name=FigureName.SIZE,
        unit="B",
        samples=1,
        value=exact(other),
        original=exact(one),
        difference=exact(other - one),
        ratio=exact(other / one),
        method="bytes on disk",
    )
