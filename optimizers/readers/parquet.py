"""Parquet files: a column per input, and perhaps columns `labels` and `groups`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from numpy.typing import NDArray

from optimizers.contract.errors import InvalidData
from optimizers.contract.signature import Signature, TensorSpec
from optimizers.readers.columns import check_column, column_array, joined
from optimizers.readers.fitting import (
    GROUPS,
    LABELS,
    Arrays,
    Groups,
    check_groups,
    check_labels,
    fit,
)
from optimizers.readers.libraries import require_library

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_MOST_ROWS_AT_ONCE: Final = 256
_BUFFER_BYTES: Final = 1 << 20
_MOST_UNEXPECTED: Final = 1 << 24


class ParquetTable:
    """An open Parquet file that fits a model.

    Attributes:
        count: How many rows it has.
        classes: Without names.
    """

    def __init__(self, path: Path, signature: Signature, file: pq.ParquetFile) -> None:
        """Check names, types and the number of rows.

        Raises:
            InvalidData: They do not fit.
        """
        self.classes: tuple[str, ...] = ()
        self._name = path.name
        self._specs = {spec.name: spec for spec in signature.inputs}
        self._file = file
        self.count = file.metadata.num_rows
        self._beside = self._check_columns(file.schema_arrow)
        self._check_sizes(file.metadata)
        self._rows = _RowReader(file, list(self._specs))
        self._taken = 0

    def take(self, items: int | None) -> Arrays:
        """The next rows of every input."""
        first = self._taken
        wanted = self.count - first if items is None else min(items, self.count - first)
        parts: dict[str, list[NDArray[Any]]] = {name: [] for name in self._specs}
        for batch in self._rows.next_rows(wanted):
            for name, arrays in parts.items():
                arrays.append(column_array(self._name, name, batch[name], self._taken))
            self._taken += batch.num_rows
        return {
            name: fit(self._name, self._specs[name], joined(self._name, name, arrays, first), first)
            for name, arrays in parts.items()
        }

    def labels(self, items: int | None) -> NDArray[Any] | None:
        """The labels of the first rows."""
        if LABELS not in self._beside:
            return None
        wanted = self.count if items is None else min(items, self.count)
        return check_labels(self._name, self._column(LABELS, wanted), 0)

    def groups(self) -> Groups | None:
        """The cluster of every row."""
        if GROUPS not in self._beside:
            return None
        return check_groups(self._name, self._column(GROUPS, self.count))

    def row(self, index: int) -> str:
        """How a person finds an item."""
        return f"row {index}"

    def _column(self, name: str, wanted: int) -> NDArray[Any]:
        """The first rows of one column that is no input."""
        parts, row = [], 0
        for batch in _RowReader(self._file, [name]).next_rows(wanted):
            parts.append(column_array(self._name, name, batch[name], row))
            row += batch.num_rows
        return joined(self._name, name, parts, 0)

    def _check_columns(self, schema: pa.Schema) -> frozenset[str]:
        """Which of the columns that are no input there are."""
        names = list(self._specs)
        optional = {LABELS, GROUPS} - set(names)
        found = sorted(schema.names)
        if sorted(set(found) - optional) != sorted(names) or len(set(found)) != len(found):
            raise InvalidData(
                f"{self._name} holds the columns {found}; expected one column per input: {names} "
                "(and, if you like, 'labels' and 'groups')"
            )
        if self.count == 0:
            raise InvalidData(f"{self._name} holds no rows, expected at least 1")
        for name, spec in self._specs.items():
            check_column(self._name, schema.field(name), len(spec.shape))
        return frozenset(optional & set(found))

    def _check_sizes(self, metadata: pq.FileMetaData) -> None:
        """A few bytes of Parquet can stand for billions of numbers: look before they are made."""
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group)
            for index in range(rows.num_columns):
                column = rows.column(index)
                spec = self._spec_of(column.path_in_schema)
                if spec is None or -1 in spec.shape[1:]:
                    continue
                wanted = rows.num_rows * math.prod(spec.shape[1:])
                if column.num_values > wanted + _MOST_UNEXPECTED:
                    raise InvalidData(
                        f"{self._name}: '{spec.name}' holds {column.num_values} values in row "
                        f"group {group}, expected {wanted} for its {rows.num_rows} rows"
                    )

    def _spec_of(self, path: str) -> TensorSpec | None:
        named = [name for name in self._specs if path == name or path.startswith(f"{name}.")]
        return self._specs[max(named, key=len)] if named else None


class _RowReader:
    """Reads rows in order, never more at once than were asked for first."""

    def __init__(self, file: pq.ParquetFile, columns: list[str]) -> None:
        self._file = file
        self._columns = columns
        self._batches: Iterator[pa.RecordBatch] | None = None
        self._pending: pa.RecordBatch | None = None

    def next_rows(self, wanted: int) -> Iterator[pa.RecordBatch]:
        """The next `wanted` rows, in one or several batches."""
        if self._batches is None:
            self._batches = self._file.iter_batches(
                batch_size=max(1, min(wanted, _MOST_ROWS_AT_ONCE)),
                columns=self._columns,
                use_threads=False,
            )
        while wanted > 0:
            batch = self._pending if self._pending is not None else next(self._batches, None)
            if batch is None:
                raise EOFError("it is cut short")
            taken = batch.slice(0, wanted)
            rest = batch.slice(taken.num_rows)
            self._pending = rest if rest.num_rows else None
            wanted -= taken.num_rows
            yield taken


@contextmanager
def open_parquet(path: Path, signature: Signature) -> Iterator[ParquetTable]:
    """Open a Parquet file.

    Raises:
        InvalidData: It cannot be read or does not fit, or pyarrow is missing.
    """
    require_library("pyarrow", "pyarrow", path.name)
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:
            yield ParquetTable(path, signature, file)
    except (pa.ArrowException, OSError, EOFError, ValueError, KeyError) as error:
        raise InvalidData(f"{path.name} cannot be read as a Parquet file: {error}") from error
