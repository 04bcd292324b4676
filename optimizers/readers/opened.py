"""What every reader gives: an open data file that is read from its first item on."""

from __future__ import annotations

from typing import Any, Protocol

from numpy.typing import NDArray

from optimizers.readers.fitting import Arrays, Groups


class DataFile(Protocol):
    """An open data file whose arrays fit a model."""

    @property
    def count(self) -> int:
        """How many items it holds, at least 1."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that the labels number; empty where there are none."""

    def take(self, items: int | None) -> Arrays:
        """The next items of every input, all that are left for None.

        Raises:
            InvalidData: They do not fit the model.
        """

    def labels(self, items: int | None) -> NDArray[Any] | None:
        """The labels of the file's first items, of all for None; None where it has no labels.

        Raises:
            InvalidData: They are no finite numbers.
        """

    def groups(self) -> Groups | None:
        """The name of every item's cluster; None where the file has no groups. To be asked once.

        Raises:
            InvalidData: They are not one whole number or text per item.
        """

    def row(self, index: int) -> str:
        """How a person finds an item in the file."""
