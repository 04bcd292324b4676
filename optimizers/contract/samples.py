"""Made-up inputs that fit a signature: good for warming up and for timing, never for judging."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizers.contract.signature import NUMPY_DTYPES, Signature, TensorSpec


def random_feeds(
    signature: Signature, rows: int, *, free_length: int = 1, seed: int = 0
) -> dict[str, NDArray[Any]]:
    """One array per input.

    Args:
        signature: What to fit.
        rows: Length of the first dimension where it is variable, at least 1.
        free_length: Length of every other variable dimension, at least 1.
        seed: The same seed gives the same arrays.

    Returns:
        Floats in [0, 1), integers and booleans 0 or 1 (valid as tokens, masks and indices),
        texts "0" or "1".
    """
    random = np.random.default_rng(seed)
    return {spec.name: _random(spec, rows, free_length, random) for spec in signature.inputs}


def _random(
    spec: TensorSpec, rows: int, free_length: int, random: np.random.Generator
) -> NDArray[Any]:
    shape = tuple(
        length if length >= 0 else (rows if axis == 0 else free_length)
        for axis, length in enumerate(spec.shape)
    )
    if spec.is_floating:
        return random.random(shape).astype(NUMPY_DTYPES[spec.datatype])
    bits = random.integers(0, 2, shape)
    if spec.datatype == "BYTES":
        texts: NDArray[Any] = np.vectorize(lambda bit: str(bit), otypes=[object])(bits)
        return texts
    return bits.astype(NUMPY_DTYPES[spec.datatype])
