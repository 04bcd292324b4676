"""Columns of a Parquet file as arrays: numbers or texts, or lists of lists of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from optimizers.contract.errors import InvalidData

if TYPE_CHECKING:
    import pyarrow as pa


def check_column(file: str, field: pa.Field, rank: int) -> None:
    """Make sure that a column can become an array.

    Args:
        file: Name of the file, for errors.
        field: The column.
        rank: Dimensions of the array, items included.

    Raises:
        InvalidData: It holds something else than numbers, booleans or texts, or lists of another
            depth.
    """
    levels, leaf = _unfold(field.type)
    expected = f"expected {rank - 1} levels of lists around numbers, booleans or texts"
    if not _is_plain(leaf) or levels != rank - 1:
        raise InvalidData(f"{file}: column '{field.name}' holds {field.type}; {expected}")


def column_array(file: str, name: str, column: pa.Array, first: int) -> NDArray[Any]:
    """Some rows of a column as an array, one dimension a level of lists.

    Args:
        file: Name of the file, for errors.
        name: The column.
        column: Its rows.
        first: Row of the first of them in the file, counted from 0.

    Raises:
        InvalidData: A value is missing, or lists differ in length; the text names the row.
    """
    shape = [len(column)]
    per_row = 1
    while _is_list(column.type):
        _check_present(file, name, column, first, per_row)
        lengths = _lengths(column)
        length = int(lengths[0]) if len(lengths) else 0
        odd = np.flatnonzero(lengths != length)
        if len(odd):
            at = int(odd[0])
            raise InvalidData(
                f"{file}: '{name}' has {lengths[at]} values in a list of row "
                f"{first + at // per_row} and {length} before; expected as many in each"
            )
        shape.append(length)
        per_row *= max(1, length)
        column = column.flatten()
    _check_present(file, name, column, first, per_row)
    return _leaves(column).reshape(shape)


def _leaves(column: pa.Array) -> NDArray[Any]:
    import pyarrow as pa

    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return np.array(column.to_pylist(), np.str_)
    array: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return array


def _check_present(file: str, name: str, column: pa.Array, first: int, per_row: int) -> None:
    if column.null_count:
        at = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        row = first + at // per_row
        raise InvalidData(f"{file}: '{name}' holds null in row {row}, expected a value")


def _lengths(column: pa.Array) -> NDArray[Any]:
    import pyarrow as pa

    if pa.types.is_fixed_size_list(column.type):
        return np.full(len(column), column.type.list_size)
    return np.diff(column.offsets.to_numpy())


def _unfold(kind: pa.DataType) -> tuple[int, pa.DataType]:
    levels = 0
    while _is_list(kind):
        levels, kind = levels + 1, kind.value_type
    return levels, kind


def _is_list(kind: pa.DataType) -> bool:
    import pyarrow as pa

    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in tests)


def _is_plain(kind: pa.DataType) -> bool:
    import pyarrow as pa

    tests = (
        *(pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean),
        *(pa.types.is_string, pa.types.is_large_string),
    )
    return any(test(kind) for test in tests)


def joined(file: str, name: str, parts: Sequence[NDArray[Any]], first: int) -> NDArray[Any]:
    """Parts of a column one after the other.

    Raises:
        InvalidData: Their items differ in shape; the text names the first row that does.
    """
    row = first
    for part in parts:
        if part.shape[1:] != parts[0].shape[1:]:
            raise InvalidData(
                f"{file}: '{name}' has shape {list(part.shape[1:])} in row {row} and "
                f"{list(parts[0].shape[1:])} before; expected one shape"
            )
        row += len(part)
    return np.concatenate(parts)
