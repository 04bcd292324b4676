"""A step that must not change answers shows that it did not, on random inputs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from optimizers.architecture.tables import rows_looked_up
from optimizers.contract.difference import INCOMPARABLE, largest_difference, largest_magnitude
from optimizers.contract.errors import HoneError
from optimizers.contract.runtime import Feeds, Session, SessionSpec
from optimizers.contract.signature import NUMPY_DTYPES, Signature, TensorSpec

_ITEMS: Final = 3
_NO_ROWS: Final[Mapping[str, int]] = MappingProxyType({})
_FREE_LENGTHS: Final = (8, 32, 64, 224)
"""Tried in this order until a model runs: one that halves an image four times needs 16 or more."""


def why_different(one: Path, other: Path, *, tolerance: float, seed: int) -> str:
    """Why a model cannot stand for another; empty if it can.

    Args:
        one: The model as it was.
        other: What a step made of it.
        tolerance: Largest difference of answers allowed, as a share of each output's largest value.
        seed: Of the random inputs: three items, 8 or more where a length is free, whole numbers
            of all rows of the table that they are looked up in, else 0 and 1.
    """
    with closing(Session(one, SessionSpec())) as former:
        try:
            feeds, wanted = _first_that_runs(former, seed, rows_looked_up(one))
            if any(map(_says_nothing, wanted)):
                return "the original gives no finite number on random inputs, so nothing is shown"
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


def random_feeds(
    signature: Signature,
    seed: int,
    free_length: int = _FREE_LENGTHS[0],
    rows: Mapping[str, int] = _NO_ROWS,
) -> dict[str, NDArray[Any]]:
    """One array per input, the same for the same seed and length where one is free.

    Whole numbers are below `rows` of their input, 0 and 1 where it is not named.
    """
    random = np.random.default_rng(seed)
    return {
        spec.name: _random(spec, random, free_length, rows.get(spec.name, 2))
        for spec in signature.inputs
    }


def _first_that_runs(
    session: Session, seed: int, rows: Mapping[str, int]
) -> tuple[Feeds, list[NDArray[Any]]]:
    """Random inputs of the first length that a model takes, and its answers to them.

    0 and 1 come last: numbers of a whole table may be too large for what else they are used for.
    """
    if rows:
        with suppress(HoneError):
            return _first_length_that_runs(session, seed, rows)
    return _first_length_that_runs(session, seed, _NO_ROWS)


def _first_length_that_runs(
    session: Session, seed: int, rows: Mapping[str, int]
) -> tuple[Feeds, list[NDArray[Any]]]:
    is_free = any(length < 0 for spec in session.signature.inputs for length in spec.shape[1:])
    *shorter, last = _FREE_LENGTHS if is_free else _FREE_LENGTHS[:1]
    for length in shorter:
        feeds = random_feeds(session.signature, seed, length, rows)
        with suppress(HoneError):
            return feeds, session.run(feeds)
    feeds = random_feeds(session.signature, seed, last, rows)
    return feeds, session.run(feeds)


def _says_nothing(answer: NDArray[Any]) -> bool:
    """Whether an answer has numbers, but none that is finite: all such are alike."""
    return answer.dtype.kind == "f" and answer.size > 0 and not np.isfinite(answer).any()


def _random(
    spec: TensorSpec, random: np.random.Generator, free_length: int, rows: int
) -> NDArray[Any]:
    shape = [
        length if length >= 0 else free_length if axis else _ITEMS
        for axis, length in enumerate(spec.shape)
    ]
    dtype = NUMPY_DTYPES[spec.datatype]
    if dtype.kind == "f":
        return random.standard_normal(shape).astype(dtype)
    most = int(np.iinfo(dtype).max) + 1 if dtype.kind in "iu" else 2
    whole = random.integers(0, min(rows, most), shape)
    return whole.astype(str).astype(np.object_) if dtype.kind == "O" else whole.astype(dtype)


def _relative(wanted: NDArray[Any], found: NDArray[Any]) -> float:
    difference = largest_difference(wanted, found)
    if difference in (0.0, INCOMPARABLE) or wanted.dtype.kind != "f":
        return difference
    return difference / max(largest_magnitude(wanted), float(np.finfo(np.float32).tiny))
