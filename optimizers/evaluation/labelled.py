"""Labels of every file are classes of the model, and mean the same in each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizers.calibration import open_data
from optimizers.contract.errors import InvalidData
from optimizers.contract.signature import Signature


def check_labelled(data: Mapping[str, Path], signature: Signature) -> None:
    """Make sure that a classifier's labels are numbers of its classes.

    Args:
        data: Purpose → file or folder; those without labels are fine.
        signature: The model's; how many classes it has is only known where its only output is
            items x classes.

    Raises:
        InvalidData: A label is no whole number or no class, a folder has more or fewer classes
            than the model, or two folders name them differently.
    """
    classes = _classes(signature)
    named: dict[tuple[str, ...], str] = {}
    for name, path in data.items():
        with open_data(path, signature) as file:
            said = f"data.{name} ({path.name})"
            if file.classes:
                _check_folder(said, file.classes, classes, named)
            elif (labels := file.labels(None)) is not None:
                _check_labels(said, labels, classes)


def _classes(signature: Signature) -> int | None:
    if len(signature.outputs) != 1 or len(signature.outputs[0].shape) != 2:
        return None
    count = signature.outputs[0].shape[1]
    return count if count > 1 else None


def _check_labels(said: str, labels: NDArray[Any], classes: int | None) -> None:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise InvalidData(
            f"{said}: labels must be one whole number per item, got {labels.dtype} of shape "
            f"{list(labels.shape)}"
        )
    wrong = labels < 0 if classes is None else (labels < 0) | (labels >= classes)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        expected = "0 or more" if classes is None else f"0..{classes - 1}"
        raise InvalidData(f"{said}: the label of row {row} is {labels[row]}, expected {expected}")


def _check_folder(
    said: str, found: tuple[str, ...], classes: int | None, named: dict[tuple[str, ...], str]
) -> None:
    """Classes are numbered by their sorted names: one that is missing would shift the others."""
    if classes is not None and len(found) != classes:
        raise InvalidData(
            f"{said} has {len(found)} folders of classes, and the model has {classes} classes; "
            "expected one folder a class, an empty one where there are no images"
        )
    for others, other in named.items():
        if others != found:
            apart = sorted(set(found) ^ set(others))
            raise InvalidData(f"{said} and {other} have other classes: {', '.join(apart[:4])}")
    named[found] = said
