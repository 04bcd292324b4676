"""Names, datatypes and shapes of a model's inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from optimizers.contract.errors import InvalidModel

NUMPY_DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}
"""The datatypes of the Open Inference Protocol and the numpy type that carries each.

BYTES are texts: an object array of `str`, as onnxruntime wants it (given `bytes`, it would take
their `repr` without a word).
"""

_ONNX_TYPES: Final[dict[str, str]] = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One input or output.

    Attributes:
        name: The name in the model file.
        datatype: A key of `NUMPY_DTYPES`.
        shape: One entry per dimension; -1 where any length is allowed.
        symbols: The model's own name of each variable dimension; "" for a fixed or nameless one.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    symbols: tuple[str, ...] = ()

    @property
    def is_floating(self) -> bool:
        """Whether rounding can make two right answers differ."""
        return self.datatype in ("FP16", "FP32", "FP64")


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What a model takes and gives, in the model's own order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def has_batch_dimension(self) -> bool:
        """Whether every tensor's first dimension is variable and carries the same name.

        A model may still mix its rows: that only running it can tell.
        """
        tensors = (*self.inputs, *self.outputs)
        if not self.inputs or any(not spec.shape or spec.shape[0] != -1 for spec in tensors):
            return False
        return len({spec.symbols[0] for spec in self.inputs if spec.symbols}) <= 1

    def matches(self, other: Signature) -> bool:
        """Whether a caller cannot tell the two apart: same names, datatypes and shapes."""

        def tensors(specs: tuple[TensorSpec, ...]) -> list[tuple[str, str, tuple[int, ...]]]:
            return [(spec.name, spec.datatype, spec.shape) for spec in specs]

        return tensors(self.inputs) == tensors(other.inputs) and (
            tensors(self.outputs) == tensors(other.outputs)
        )


def tensor_spec(name: str, onnx_type: str, shape: list[int | str | None]) -> TensorSpec:
    """Translate what onnxruntime says of one input or output.

    Args:
        name: The tensor's name.
        onnx_type: For example `tensor(float)`.
        shape: Lengths; a string or None where the length is variable.

    Raises:
        InvalidModel: The type has no counterpart in the Open Inference Protocol.
    """
    datatype = _ONNX_TYPES.get(onnx_type)
    if datatype is None:
        raise InvalidModel(
            f"tensor '{name}' has type {onnx_type}, which cannot be served; "
            f"expected one of {', '.join(_ONNX_TYPES)}"
        )
    fixed = tuple(n if isinstance(n, int) and n >= 0 else -1 for n in shape)
    symbols = tuple(n if isinstance(n, str) else "" for n in shape)
    return TensorSpec(name=name, datatype=datatype, shape=fixed, symbols=symbols)
