"""A step that must not change answers shows that it did not, on random inputs."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from optimizers.contract.difference import INCOMPARABLE, largest_difference, largest_magnitude
from optimizers.contract.errors import HoneError
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.contract.signature import NUMPY_DTYPES, Signature, TensorSpec

_ITEMS: Final = 3
_FREE_LENGTH: Final = 8


def why_different(one: Path, other: Path, *, tolerance: float, seed: int) -> str:
    """Why a model cannot stand for another; empty if it can.

    Args:
        one: The model as it was.
        other: What a step made of it.
        tolerance: Largest difference of answers allowed, as a share of each output's largest value.
        seed: Of the random inputs: three items, 8 where a length is free, whole numbers 0 and 1.
    """
    with closing(Session(one, SessionSpec())) as former:
        feeds = random_feeds(former.signature, seed)
        try:
            wanted = former.run(feeds)
            with closing(Session(other, SessionSpec())) as latter:
                if not former.signature.matches(latter.signature):
                    return "its inputs or outputs changed"
                found = latter.run(feeds)
        except HoneError as error:
            return f"it cannot be run on random inputs: {error}"
    worst = max(map(_relative, wanted, found), default=0.0)
    if worst <= tolerance:
        return ""
    return f"answers differ by {worst:.1e} of the largest, {tolerance:.0e} is allowed"


def why_unusable(model: Path) -> str:
    """Why what a step made cannot be opened; empty if it can."""
    try:
        Session(model, SessionSpec()).close()
    except HoneError as error:
        return f"it cannot be opened: {error}"
    return ""


def random_feeds(signature: Signature, seed: int) -> dict[str, NDArray[Any]]:
    """One array per input, the same for the same seed."""
    random = np.random.default_rng(seed)
    return {spec.name: _random(spec, random) for spec in signature.inputs}


def _random(spec: TensorSpec, random: np.random.Generator) -> NDArray[Any]:
    shape = [
        length if length >= 0 else _FREE_LENGTH if axis else _ITEMS
        for axis, length in enumerate(spec.shape)
    ]
    dtype = NUMPY_DTYPES[spec.datatype]
    if dtype.kind == "f":
        return random.standard_normal(shape).astype(dtype)
    whole = random.integers(0, 2, shape)
    return whole.astype(str).astype(np.object_) if dtype.kind == "O" else whole.astype(dtype)


def _relative(wanted: NDArray[Any], found: NDArray[Any]) -> float:
    difference = largest_difference(wanted, found)
    if difference in (0.0, INCOMPARABLE) or wanted.dtype.kind != "f":
        return difference
    return difference / max(largest_magnitude(wanted), float(np.finfo(np.float32).tiny))
