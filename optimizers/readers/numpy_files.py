"""`.npz` files with an array per input, and `.npy` files for models with one input."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from optimizers.contract.errors import InvalidData
from optimizers.contract.signature import Signature
from optimizers.readers.fitting import (
    GROUPS,
    LABELS,
    Arrays,
    Groups,
    check_groups,
    check_labels,
    fit,
    single_input,
)
from optimizers.readers.rows import Rows

_UNREADABLE: Final = (
    OSError,
    ValueError,
    EOFError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)


class ArrayFile:
    """Open arrays that fit a model.

    Attributes:
        count: How many items there are.
        classes: Without names.
    """

    def __init__(self, path: Path, signature: Signature, rows: dict[str, Rows]) -> None:
        """Check names and counts.

        Raises:
            InvalidData: They do not fit.
        """
        names = [spec.name for spec in signature.inputs]
        self._labels = rows.pop(LABELS, None) if LABELS not in names else None
        self._groups = rows.pop(GROUPS, None) if GROUPS not in names else None
        if set(rows) != set(names):
            raise InvalidData(
                f"{path.name} holds {sorted(rows)}; expected one array per input: {names} (and, "
                "if you like, 'labels' and 'groups')"
            )
        counts = {name: row.count for name, row in rows.items()}
        if self._labels is not None:
            counts[LABELS] = self._labels.count
        if self._groups is not None:
            counts[GROUPS] = self._groups.count
        if len(set(counts.values())) != 1 or 0 in counts.values():
            raise InvalidData(
                f"{path.name}: every array must have the same number of items, at least 1; got "
                f"{counts}"
            )
        self.count = next(iter(counts.values()))
        self.classes: tuple[str, ...] = ()
        self._path = path
        self._signature = signature
        self._rows = rows
        self._taken = 0

    def take(self, items: int | None) -> Arrays:
        """The next items of every input."""
        first = self._taken
        arrays = {
            spec.name: fit(self._path.name, spec, self._rows[spec.name].take(items), first)
            for spec in self._signature.inputs
        }
        self._taken = self.count if items is None else min(self.count, first + items)
        return arrays

    def labels(self, items: int | None) -> NDArray[Any] | None:
        """The labels of the first items; to be asked once."""
        if self._labels is None:
            return None
        return check_labels(self._path.name, self._labels.take(items), 0)

    def groups(self) -> Groups | None:
        """The cluster of every item; to be asked once."""
        if self._groups is None:
            return None
        return check_groups(self._path.name, self._groups.take(None))

    def row(self, index: int) -> str:
        """How a person finds an item."""
        return f"row {index}"


@contextmanager
def open_npz(path: Path, signature: Signature) -> Iterator[ArrayFile]:
    """Open an `.npz` with one array per input, first axis = items, perhaps `labels` and `groups`.

    Raises:
        InvalidData: It cannot be read or does not fit.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            rows = {
                entry.filename.removesuffix(".npy"): Rows(
                    archive.open(entry), entry.filename, entry.file_size
                )
                for entry in archive.infolist()
            }
            yield ArrayFile(path, signature, rows)
    except _UNREADABLE as error:
        raise InvalidData(f"{path.name} cannot be read as an .npz file: {error}") from error


@contextmanager
def open_npy(path: Path, signature: Signature) -> Iterator[ArrayFile]:
    """Open an `.npy` with the items of a model's only input; it holds no labels.

    Raises:
        InvalidData: It cannot be read or does not fit, or the model has several inputs.
    """
    spec = single_input(path.name, "an .npy", signature)
    try:
        with path.open("rb") as stream:
            rows = Rows(stream, path.name, path.stat().st_size)
            yield ArrayFile(path, signature, {spec.name: rows})
    except _UNREADABLE as error:
        raise InvalidData(f"{path.name} cannot be read as an .npy file: {error}") from error
