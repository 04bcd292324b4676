"""Outputs as classes: the highest values of each row, as `value:index[:label]`.

Format and shapes are Triton's: numbers as C writes them with `%f` or `%d`; the output of a model
that batches becomes [rows, classes], any other's [classes]. Among equal values the lower index
comes first, and what is not a number comes last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from optimizers.contract.documents import shown
from optimizers.contract.signature import TensorSpec
from server.errors import InvalidRequest, TooLarge
from server.pb import open_inference_pb2 as pb

PARAMETER: Final = "classification"
_DATATYPES: Final = (
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP32",
    "FP64",
)
_MOST_TEXTS: Final = 1 << 18


def class_count(spec: TensorSpec, parameter: pb.InferParameter) -> int:
    """How many classes a request wants of an output, at least 1.

    Raises:
        InvalidRequest: It is no such number, or the output's values cannot be compared.
    """
    kind = parameter.WhichOneof("parameter_choice")
    count = parameter.int64_param
    if kind != "int64_param" or count < 1:
        got = None if kind is None else getattr(parameter, kind)
        raise InvalidRequest(
            f"output '{spec.name}': '{PARAMETER}' must be an int64_param of 1 or more, "
            f"got {shown(got)}"
        )
    if spec.datatype not in _DATATYPES:
        raise InvalidRequest(
            f"class result not available for output '{spec.name}' due to unsupported type "
            f"'{spec.datatype}'"
        )
    return count


def classify(
    name: str, array: NDArray[Any], count: int, labels: Sequence[str], *, by_row: bool
) -> NDArray[np.object_]:
    """The classes of an output.

    Args:
        name: The output.
        array: Its values.
        count: Classes wanted; more than there are gives all.
        labels: Name of class 0, 1 …; a class beyond them or with an empty name goes without.
        by_row: Whether the first dimension counts rows.

    Returns:
        Texts of shape [rows, min(count, classes)], or [min(count, classes)].

    Raises:
        TooLarge: So many texts are not made for one output.
    """
    rows = array.shape[0] if by_row and array.ndim else 1
    classes = math.prod(array.shape[1:] if by_row else array.shape)
    count = min(count, classes)
    if rows * count > _MOST_TEXTS:
        raise TooLarge(
            f"output '{name}': {rows} rows of {count} classes were asked for, at most "
            f"{_MOST_TEXTS} classes may be in all"
        )
    texts = np.empty((rows, count), dtype=np.object_)
    for row, values in enumerate(array.reshape(rows, classes)):
        for place, index in enumerate(_highest(values, count)):
            texts[row, place] = _text(values[index], int(index), labels)
    return texts if by_row and array.ndim else texts.reshape(count)


def _highest(values: NDArray[Any], count: int) -> NDArray[np.intp]:
    """Indices of the `count` highest values, highest first."""
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), -np.inf, values)
    chosen = np.arange(values.size)
    if count < values.size:
        least = np.partition(values, values.size - count)[values.size - count]
        above = np.flatnonzero(values > least)
        level = np.flatnonzero(values == least)[: count - above.size]
        chosen = np.concatenate((above, level))
    # Reversed before and after a stable ascending sort: descending, and still stable.
    return chosen[::-1][np.argsort(values[chosen[::-1]], kind="stable")][::-1]


def _text(value: Any, index: int, labels: Sequence[str]) -> str:
    number = f"{value:f}" if isinstance(value, np.floating) else str(int(value))
    label = labels[index] if index < len(labels) else ""
    return f"{number}:{index}:{label}" if label else f"{number}:{index}"
