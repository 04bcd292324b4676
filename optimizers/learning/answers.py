"""What a teacher answers to the items that its student is trained on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from optimizers.learning.stored import Rows, RowWriter

_LOOKED_AT_ONCE: Final = 1024


class Answers:
    """One output's answers to all items, in memory or in a file.

    Attributes:
        shape: First axis = items.
    """

    def __init__(self, rows: Rows) -> None:
        """Of floating-point numbers."""
        self.shape = rows.shape
        self._rows = rows

    def __getitem__(self, numbers: torch.Tensor) -> torch.Tensor:
        """The answers to some items by their numbers, int64."""
        return torch.from_numpy(self._rows[numbers.numpy()])

    def parts(self) -> Iterator[torch.Tensor]:
        """All answers in order, many at a time."""
        for start in range(0, self.shape[0], _LOOKED_AT_ONCE):
            yield torch.from_numpy(self._rows[start : start + _LOOKED_AT_ONCE])


class CollectedAnswers:
    """Answers of one output as they come, which go to a file where all would be too large."""

    def __init__(self, count: int, directory: Path | None, name: str, held_bytes: int) -> None:
        """None have come.

        Args:
            count: How many will come.
            directory: Of the file; None: they stay in memory.
            name: Of the file.
            held_bytes: Most bytes that stay in memory.
        """
        self._count = count
        self._directory = directory
        self._name = name
        self._held_bytes = held_bytes
        self._held: list[NDArray[Any]] = []
        self._writer: RowWriter | None = None

    def add(self, part: NDArray[Any]) -> None:
        """Take the next ones, floats [some, ...].

        Raises:
            NotSupported: The disk has no room for all that will come.
        """
        if self._directory is not None and not self._held and self._writer is None:
            size = part.nbytes * self._count // len(part)
            if size > self._held_bytes:
                self._writer = RowWriter(self._directory / self._name, size)
        if self._writer is None:
            self._held.append(part)
        else:
            self._writer.write(part)

    def answers(self) -> Answers:
        """All that came, at least one."""
        rows = np.concatenate(self._held) if self._writer is None else self._writer.rows()
        return Answers(rows)
