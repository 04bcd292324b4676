"""What gains are measured on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from optimizers.contract.profile import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A model and its data.

    Attributes:
        name: Its name.
        about: What it is, with its data and the counts of items.
        task: What its answers are.
        model: The ONNX file.
        data: calibration, train, search, gate → file.
        is_labelled: Whether the right answers are known.
    """

    name: str
    about: str
    task: Task
    model: Path
    data: dict[str, Path]
    is_labelled: bool = True
