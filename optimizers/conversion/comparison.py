"""Compares a converted model with the program it was made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from optimizers.contract.difference import largest_difference, largest_magnitude
from optimizers.contract.errors import InvalidModel
from optimizers.conversion.program import Program, brief

TOLERANCE: Final = 1e-4
"""Largest difference, as a share of an output's largest magnitude (or of 1 where that is less)."""
HALF_TOLERANCE: Final = 1e-2
"""The same where an output has 16 bits: its rounding alone is 5e-4."""
BATCHES: Final = (1, 2, 5)
"""Rows compared where the batch is free; 1 and 2 are the numbers exporters specialise on."""

_SEED: Final = 20260
_HALF_BYTES: Final = 2


def compare(program: Program, model: Path) -> float:
    """Ask both the same made-up inputs, several numbers of rows.

    Returns:
        The largest difference found, as a share of its output's largest magnitude.

    Raises:
        InvalidModel: They differ by more than rounding, or the converted model cannot run.
    """
    try:
        session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    except Exception as error:
        raise InvalidModel(
            f"the converted model cannot be opened by onnxruntime: {brief(error)}"
        ) from error
    names = [output.name for output in session.get_outputs()]
    largest = 0.0
    for rows in BATCHES if program.batch is None else (program.batch,):
        arrays = program.random_inputs(rows, seed=_SEED + rows)
        rows = len(arrays[0]) if arrays[0].ndim else 1
        expected = program.run(arrays)
        try:
            answers = session.run(names, dict(zip(program.inputs, arrays, strict=True)))
        except Exception as error:
            raise InvalidModel(
                f"the converted model cannot compute {rows} rows, the program can: {brief(error)}"
            ) from error
        for name, one, other in zip(names, answers, expected, strict=True):
            difference = relative_difference(np.asarray(one), other)
            tolerance = HALF_TOLERANCE if other.dtype.itemsize == _HALF_BYTES else TOLERANCE
            if difference > tolerance:
                raise InvalidModel(
                    f"the converted model answers otherwise than the program: with {rows} rows "
                    f"output '{name}' differs by {difference:.2g} of its magnitude, expected at "
                    f"most {tolerance:g}; a program that draws random numbers (dropout: export it "
                    "after model.eval()) can never agree"
                )
            largest = max(largest, difference)
    return largest


def relative_difference(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Largest difference of two arrays as a share of the second's largest magnitude, or of 1."""
    scale = largest_magnitude(other) if other.dtype.kind == "f" else 0.0
    return largest_difference(one, other) / max(scale, 1.0)
