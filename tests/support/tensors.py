"""Tensors of every datatype, drawn by hypothesis."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as some
from hypothesis.extra import numpy as some_arrays
from numpy.typing import NDArray

from optimizers.contract.signature import NUMPY_DTYPES


def some_values(datatype: str, shape: tuple[int, ...]) -> some.SearchStrategy[NDArray[Any]]:
    """Values of one datatype; BYTES are texts."""
    if datatype == "BYTES":
        return some_arrays.arrays(np.object_, shape, elements=some.text(max_size=5))
    return some_arrays.arrays(NUMPY_DTYPES[datatype], shape)
