"""Shapes with numbers everywhere: what is known only at run time gets a number of its own."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Final

import onnx

from optimizers.macs import Shape, infer_shapes

_FIRST: Final = 101
_LONGEST_SHAPE: Final = 16


def stand_in_shapes(model: onnx.ModelProto) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """Shapes of all tensors, with a prime for every length of an input that a caller decides.

    The primes divide no length that the model's constants have or hold, so that products of
    lengths, as a Reshape makes them, can be told apart.

    Returns:
        The shapes, None where they are not known, and the same with other primes: what differs
        is known only at run time.
    """
    primes = _primes(model)
    return _filled(model, primes), _filled(model, primes)


def _filled(model: onnx.ModelProto, primes: Iterator[int]) -> dict[str, Shape]:
    filled = onnx.ModelProto()
    filled.CopyFrom(model)
    named: dict[str, int] = {}
    for value in filled.graph.output:  # their lengths follow, or may have names of their own
        value.type.tensor_type.ClearField("shape")
    for value in filled.graph.input:
        for axis in value.type.tensor_type.shape.dim:
            if not axis.HasField("dim_value"):
                name = axis.dim_param or f"a length without a name, the {len(named)}th"
                axis.dim_value = named.setdefault(name, next(primes))
    return infer_shapes(filled)


def _primes(model: onnx.ModelProto) -> Iterator[int]:
    known = {size for tensor in model.graph.initializer for size in tensor.dims}
    known |= {
        size
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.INT64 and sum(tensor.dims) <= _LONGEST_SHAPE
        for size in onnx.numpy_helper.to_array(tensor).reshape(-1).tolist()
    }
    for number in count(_FIRST, 2):
        is_prime = all(number % factor for factor in range(3, int(number**0.5) + 1, 2))
        if is_prime and all(size % number or size == 0 for size in known):
            yield number
