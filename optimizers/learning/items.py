"""The items a model is trained on, and what their teacher answers."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from optimizers.calibration import Arrays, batches, load_arrays
from optimizers.contract.errors import InvalidData
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.evaluation.fidelity import class_output
from optimizers.step import StepContext

_ROWS_AT_ONCE: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingItems:
    """Training data in memory.

    Attributes:
        arrays: One array per input, first axis = items.
        labels: One class per item, int64, or None.
        count: How many items there are.
        class_output: Name of the output that holds scores of classes; None where there is none.
    """

    arrays: Arrays
    labels: torch.Tensor | None
    count: int
    class_output: str | None = None

    def feeds(self, numbers: torch.Tensor) -> dict[str, torch.Tensor]:
        """The inputs of some items."""
        rows = numbers.numpy()
        return {name: torch.from_numpy(array[rows]) for name, array in self.arrays.items()}


def training_items(step: str, model: Path, context: StepContext) -> TrainingItems:
    """Read `data.train`.

    Raises:
        InvalidData: There is none, or it does not fit the model.
    """
    path = context.data.get("train")
    if path is None:
        raise InvalidData(f"{step} needs training data: name a file as data.train in hone.yaml")
    with closing(Session(model, SessionSpec())) as session:
        if not session.signature.has_batch_dimension:
            raise InvalidData(
                f"{step} trains on several items at once, but the model's batch is fixed"
            )
        arrays, labels = load_arrays(path, session.signature)
        index = class_output(session.signature)
        scores = None if index is None else session.signature.outputs[index].name
    return TrainingItems(
        arrays=arrays,
        labels=None if labels is None else torch.from_numpy(labels.astype(np.int64)),
        count=len(next(iter(arrays.values()))),
        class_output=scores,
    )


def teacher_answers(teacher: Path, items: TrainingItems) -> dict[str, torch.Tensor]:
    """Every floating-point output of the teacher for every item, by name."""
    with closing(Session(teacher, SessionSpec())) as session:
        names = [spec.name for spec in session.signature.outputs]
        answers: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
        for feeds in batches(items.arrays, _ROWS_AT_ONCE):
            for name, answer in zip(names, session.run(feeds), strict=True):
                answers[name].append(answer)
    whole = {name: np.concatenate(parts) for name, parts in answers.items()}
    return {name: torch.from_numpy(one) for name, one in whole.items() if one.dtype.kind == "f"}
