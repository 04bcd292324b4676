"""Writing ONNX models of any size: protobuf, and with it an ONNX file, ends at 2 GB."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Final

import onnx
from onnx.external_data_helper import set_external_data

from optimizers.contract.onnx_file import read_onnx_file

LARGEST_FILE_BYTES: Final = (1 << 31) - (1 << 25)
"""Of weights that are kept in the model's own file; leaves 32 MiB for all else."""

_PACKED_BITS: Final = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}
"""Of numbers that share a byte in a file; numpy has a whole one for each."""

_SMALLEST_APART_BYTES: Final = 1024
_ALIGNMENT_BYTES: Final = 4096
"""So that a runtime can map the weights instead of copying them."""


def save(model: onnx.ModelProto, target: Path) -> None:
    """Write a model, its weights to `<target>.data` if they are too large for one file.

    Args:
        model: With its weights in memory; the same afterwards.
        target: The file; replaced where there is one.
    """
    data = target.with_name(target.name + ".data")
    if sum(map(size_bytes, model.graph.initializer)) <= LARGEST_FILE_BYTES:
        onnx.save(model, str(target))
        data.unlink(missing_ok=True)
        return
    with _apart(model, data):
        onnx.save(model, str(target))


@contextmanager
def saved(model: onnx.ModelProto) -> Iterator[Path]:
    """A file with a model for as long as the context lasts, for a session to be opened on."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.onnx"
        save(model, path)
        yield path


def is_large(model: Path) -> bool:
    """Whether what is made of this model file may be too large for one file."""
    return read_onnx_file(model).size_bytes > LARGEST_FILE_BYTES


@contextmanager
def _apart(model: onnx.ModelProto, data: Path) -> Iterator[None]:
    """Move large weights to a file for as long as the context lasts."""
    moved: list[tuple[onnx.TensorProto, bytes]] = []
    try:
        with data.open("wb") as file:
            for tensor in model.graph.initializer:
                if size_bytes(tensor) < _SMALLEST_APART_BYTES:
                    continue
                if not tensor.HasField("raw_data"):
                    array = onnx.numpy_helper.to_array(tensor)
                    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
                file.write(b"\0" * (-file.tell() % _ALIGNMENT_BYTES))
                content = tensor.raw_data
                set_external_data(
                    tensor, location=data.name, offset=file.tell(), length=len(content)
                )
                tensor.ClearField("raw_data")
                moved.append((tensor, content))
                file.write(content)
        yield
    finally:
        for tensor, content in moved:
            del tensor.external_data[:]
            tensor.ClearField("data_location")
            tensor.raw_data = content


def size_bytes(tensor: onnx.TensorProto) -> int:
    """What its numbers take, wherever they lie; 0 for texts."""
    return -(-prod(tensor.dims) * number_bits(tensor) // 8)


def number_bits(tensor: onnx.TensorProto) -> int:
    """Bits of one number as stored; 0 of a text."""
    if tensor.data_type == onnx.TensorProto.STRING:
        return 0
    packed = _PACKED_BITS.get(onnx.TensorProto.DataType.Name(tensor.data_type))
    if packed is not None:
        return packed
    width: int = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return 8 * width
