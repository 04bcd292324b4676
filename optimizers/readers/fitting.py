"""Whether arrays fit a model's inputs, and what is said where they do not."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from optimizers.contract.errors import InvalidData
from optimizers.contract.signature import NUMPY_DTYPES, Signature, TensorSpec

LABELS: Final = "labels"
GROUPS: Final = "groups"

Groups = NDArray[np.str_]
"""One name per item."""

Arrays = dict[str, NDArray[Any]]


def single_input(file: str, kind: str, signature: Signature) -> TensorSpec:
    """The only input of a model whose data comes as `kind`.

    Raises:
        InvalidData: The model has several.
    """
    if len(signature.inputs) != 1:
        names = [spec.name for spec in signature.inputs]
        raise InvalidData(
            f"{file}: {kind} holds one array and the model has {len(names)} inputs {names}; "
            "expected an .npz or .parquet with one array per input"
        )
    return signature.inputs[0]


def fit(file: str, spec: TensorSpec, array: NDArray[Any], first: int) -> NDArray[Any]:
    """Items as the input wants them.

    Args:
        file: Name of the file, for errors.
        spec: The input.
        array: Some of its items.
        first: Row of the first of them in the file, counted from 0.

    Raises:
        InvalidData: Shape or type are others, a number is not finite, or a whole number is beyond
            what the input's type holds.
    """
    fits = array.ndim == len(spec.shape) and all(
        wanted in (-1, length)
        for length, wanted in zip(array.shape[1:], spec.shape[1:], strict=True)
    )
    if not fits:
        raise InvalidData(
            f"{file}: '{spec.name}' has shape {list(array.shape)}, expected items x "
            f"{list(spec.shape[1:])} (-1 stands for any length)"
        )
    if spec.datatype == "BYTES":
        return _texts(file, spec.name, array)
    wanted_type = NUMPY_DTYPES[spec.datatype]
    if not np.can_cast(array.dtype, wanted_type, "same_kind"):
        raise InvalidData(f"{file}: '{spec.name}' holds {array.dtype}, expected {wanted_type}")
    # A number too large for the model's type becomes infinite, and is then named below.
    with np.errstate(over="ignore"):
        cast = array.astype(wanted_type, copy=False)
    check_finite(file, spec.name, cast, first)
    _check_range(file, spec, array, cast, first)
    return cast


def check_finite(file: str, name: str, array: NDArray[Any], first: int) -> None:
    """Make sure that no number is infinite or missing.

    Raises:
        InvalidData: One is; the text names its row.
    """
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return
    row = int(np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))[0])
    values = array[row].reshape(-1)
    value = values[~np.isfinite(values)][0]
    raise InvalidData(f"{file}: '{name}' holds {value} in row {first + row}, expected a number")


def _check_range(
    file: str, spec: TensorSpec, array: NDArray[Any], cast: NDArray[Any], first: int
) -> None:
    """Make sure that whole numbers are still the same in the input's type."""
    if cast.dtype.kind not in "iu" or np.can_cast(array.dtype, cast.dtype, "safe"):
        return
    changed = array != cast
    if changed.any():
        row = int(np.flatnonzero(changed.reshape(len(array), -1).any(axis=1))[0])
        raise InvalidData(
            f"{file}: '{spec.name}' holds {array[changed][0]} in row {first + row}, which does "
            f"not fit {spec.datatype}"
        )


def check_labels(file: str, labels: NDArray[Any], first: int) -> NDArray[Any]:
    """Labels as they are.

    Raises:
        InvalidData: They are no numbers, or one is not finite.
    """
    if labels.dtype.kind not in "biuf":
        raise InvalidData(f"{file}: labels must be numbers, got {labels.dtype}")
    check_finite(file, LABELS, labels, first)
    return labels


def check_groups(file: str, groups: NDArray[Any]) -> Groups:
    """Names of the clusters that items belong to.

    A whole number is its name, so that 7 and "7" are one cluster.

    Raises:
        InvalidData: They are not one whole number or text per item.
    """
    if groups.ndim != 1 or groups.dtype.kind not in "iuSU":
        raise InvalidData(
            f"{file}: groups must be one whole number or text per item, got {groups.dtype} of "
            f"shape {list(groups.shape)}"
        )
    names: Groups = _decoded(file, GROUPS, groups).astype(np.str_)
    return names


def _texts(file: str, name: str, array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind not in "SU":
        raise InvalidData(f"{file}: '{name}' must hold texts, got {array.dtype}")
    return _decoded(file, name, array).astype(np.object_)


def _decoded(file: str, name: str, array: NDArray[Any]) -> NDArray[Any]:
    try:
        return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array
    except UnicodeDecodeError as error:
        raise InvalidData(f"{file}: '{name}' holds bytes that are not UTF-8") from error
