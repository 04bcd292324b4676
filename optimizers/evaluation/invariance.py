"""Whether an answer depends on who else is in the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from optimizers.calibration import Arrays, item_count, take
from optimizers.contract.difference import INCOMPARABLE, largest_difference, largest_magnitude
from optimizers.contract.runtime import Session
from optimizers.evaluation.fidelity import Outputs, answer
from optimizers.evaluation.progress import Share, unheard

LARGER_BATCH: Final = 8
"""Rows that a caller may well send in one request, or that are joined under load."""

LARGEST_RELATIVE_DIFFERENCE: Final = 1e-3
"""Of an output's largest magnitude; more is no rounding but a dependence on neighbours."""

_EXTREME: Final = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Invariance:
    """How much answers moved when items shared a run.

    Attributes:
        difference: Output name → largest absolute difference seen.
        relative: Output name → the same divided by the output's largest magnitude.
        together: The answers in each batch size tried, in item order, no neighbour made up.
        met_extreme: Whether items were also seen beside a neighbour of extreme values.
    """

    difference: dict[str, float]
    relative: dict[str, float]
    together: tuple[Outputs, ...]
    met_extreme: bool

    @property
    def holds(self) -> bool:
        """Whether requests of strangers may share a run."""
        return all(value <= LARGEST_RELATIVE_DIFFERENCE for value in self.relative.values())


def measure_invariance(
    session: Session,
    items: Arrays,
    alone: Outputs,
    sizes: Sequence[int],
    seed: int,
    share: Share = unheard,
) -> Invariance:
    """Compare each item alone with itself in shuffled batches, and once beside an extreme one.

    Args:
        session: The variant, open; it has a batch dimension.
        items: The gate's items.
        alone: The variant's answers to each of them alone.
        sizes: At least one batch size, each at least 2.
        seed: Of the shuffling.
        share: Takes the share that is done.

    Raises:
        RunFailed: The runtime refused a batch.
    """
    random = np.random.default_rng(seed)
    together: list[Outputs] = []
    for place, size in enumerate(sizes):
        order = random.permutation(item_count(items))
        together.append(answer(session, items, order, size, _part(share, place, len(sizes))))
    pairs = [(alone, answers) for answers in together]
    chosen = random.permutation(item_count(items))[: max(sizes)]
    neighbours = _with_extreme(take(items, chosen)) if len(chosen) > 1 else None
    if neighbours is not None:
        victims = [array[:-1] for array in session.run(neighbours)]
        pairs.append(([array[chosen][:-1] for array in alone], victims))
    names = [spec.name for spec in session.signature.outputs]
    difference = {
        name: max(largest_difference(one[index], other[index]) for one, other in pairs)
        for index, name in enumerate(names)
    }
    return Invariance(
        difference=difference,
        relative={
            name: min(INCOMPARABLE, difference[name] / _scale(array))
            for name, array in zip(names, alone, strict=True)
        },
        together=tuple(together),
        met_extreme=neighbours is not None,
    )


def _part(share: Share, place: int, parts: int) -> Share:
    return lambda done: share((place + done) / parts)


def _with_extreme(items: Arrays) -> Arrays | None:
    """The same items, the last one's floating inputs blown up; None if that changes nothing."""
    changed = {name: _last_blown_up(array) for name, array in items.items()}
    if all(largest_difference(items[name], array) == 0 for name, array in changed.items()):
        return None
    return changed


def _last_blown_up(array: NDArray[Any]) -> NDArray[Any]:
    """Whole numbers and texts stay as they are: they have a range that nobody declares."""
    if array.dtype.kind != "f":
        return array
    limits = np.finfo(array.dtype)
    changed = array.copy()
    with np.errstate(over="ignore"):
        changed[-1] = np.clip(changed[-1] * _EXTREME, limits.min, limits.max)
    return changed


def _scale(array: NDArray[Any]) -> float:
    return max(1e-6, largest_magnitude(array)) if array.dtype.kind == "f" else 1.0
