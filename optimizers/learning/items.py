"""The items a model is trained on, in memory or, where they are many, in files."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch

from optimizers.calibration import open_data
from optimizers.contract.errors import InvalidData
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.evaluation.clusters import clusters_of
from optimizers.evaluation.fidelity import class_output
from optimizers.learning.answers import Answers, CollectedAnswers
from optimizers.learning.reading import read_rows
from optimizers.learning.stored import Rows
from optimizers.step import StepContext

_ROWS_AT_ONCE: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingItems:
    """Training data.

    Attributes:
        arrays: One array per input, first axis = items.
        labels: One class per item, int64, or None.
        count: How many items there are.
        clusters: Of each item the number of its cluster, int64; None where the data has no groups.
        class_output: Name of the output that holds scores of classes; None where there is none.
        directory: Where files may be put that belong to them; None: nothing is put into files.
        held_bytes: What is larger goes there.
    """

    arrays: Mapping[str, Rows]
    labels: torch.Tensor | None
    count: int
    clusters: torch.Tensor | None = None
    class_output: str | None = None
    directory: Path | None = None
    held_bytes: int = 0

    def feeds(self, numbers: torch.Tensor) -> dict[str, torch.Tensor]:
        """The inputs of some items."""
        rows = numbers.numpy()
        return {name: torch.from_numpy(array[rows]) for name, array in self.arrays.items()}


def training_items(step: str, model: Path, context: StepContext) -> TrainingItems:
    """Read `data.train` to its end, and hold no more of it in memory than the context allows.

    What is larger stays where it is, if its numbers lie there as the model takes them, or is
    written to the work directory as they come.

    Raises:
        InvalidData: There is none, or it does not fit the model.
    """
    path = context.data.get("train")
    if path is None:
        raise InvalidData(f"{step} needs training data: name a file as data.train in hone.yaml")
    with closing(Session(model, SessionSpec())) as session:
        signature = session.signature
    if not signature.has_batch_dimension:
        raise InvalidData(f"{step} trains on several items at once, but the model's batch is fixed")
    with open_data(path, signature) as file:
        arrays = read_rows(path, signature, file, context.work_directory, context.held_bytes)
        labels, groups, count = file.labels(None), file.groups(), file.count
    index = class_output(signature)
    return TrainingItems(
        arrays=arrays,
        labels=None if labels is None else torch.from_numpy(labels.astype(np.int64)),
        count=count,
        clusters=None if groups is None else torch.from_numpy(clusters_of(groups).places),
        class_output=None if index is None else signature.outputs[index].name,
        directory=context.work_directory,
        held_bytes=context.held_bytes,
    )


def teacher_answers(
    teacher: Path, items: TrainingItems, outputs: Mapping[str, str] | None = None
) -> dict[str, Answers]:
    """Every floating-point output of the teacher for every item.

    Args:
        teacher: Takes inputs of the items, perhaps not all of them.
        items: What it is asked; their limit of memory holds for each output as well.
        outputs: The teacher's output → the student's that learns from it; None where they have
            the same names.

    Returns:
        By the student's names.
    """
    with closing(Session(teacher, SessionSpec())) as session:
        signature = session.signature
        if outputs is None:
            outputs = {spec.name: spec.name for spec in signature.outputs if spec.is_floating}
        takes = [spec.name for spec in signature.inputs]
        collected = [
            CollectedAnswers(items.count, items.directory, f"answers.{index}", items.held_bytes)
            for index in range(len(outputs))
        ]
        for start in range(0, items.count if outputs else 0, _ROWS_AT_ONCE):
            feeds = {name: items.arrays[name][start : start + _ROWS_AT_ONCE] for name in takes}
            for known, answer in zip(collected, session.run(feeds, list(outputs)), strict=True):
                known.add(answer)
    return {name: known.answers() for name, known in zip(outputs.values(), collected, strict=True)}
