"""Whether an answer depends on who else is in the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from optimizers.calibration import Arrays, item_count, take
from optimizers.contract.difference import largest_difference
from optimizers.contract.runtime import Session
from optimizers.contract.signature import Signature
from optimizers.evaluation.fidelity import Outputs, answer

LARGEST_RELATIVE_DIFFERENCE: Final = 1e-3
"""Of an output's largest magnitude; more is no rounding but a dependence on neighbours."""

_EXTREME: Final = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Invariance:
    """How much answers moved when items shared a run.

    Attributes:
        difference: Output name → largest absolute difference seen.
        relative: Output name → the same divided by the output's largest magnitude.
        served: The answers in each batch size tried, in item order.
    """

    difference: dict[str, float]
    relative: dict[str, float]
    served: tuple[Outputs, ...]

    @property
    def holds(self) -> bool:
        """Whether requests may share a run."""
        return all(value <= LARGEST_RELATIVE_DIFFERENCE for value in self.relative.values())


def measure_invariance(
    session: Session,
    signature: Signature,
    items: Arrays,
    alone: Outputs,
    sizes: Sequence[int],
    seed: int,
) -> Invariance:
    """Compare each item alone with itself in shuffled batches, one with an extreme neighbour.

    Args:
        session: The variant, open.
        signature: Its signature.
        items: The gate's items.
        alone: The variant's answers to each of them alone.
        sizes: Batch sizes to be served, each at least 2.
        seed: Of the shuffling.

    Raises:
        RunFailed: The runtime refused a batch.
    """
    random = np.random.default_rng(seed)
    count = item_count(items)
    largest = dict.fromkeys((spec.name for spec in signature.outputs), 0.0)
    served = []
    for size in sizes:
        together = answer(session, items, random.permutation(count), size)
        served.append(together)
        _note(largest, signature, alone, together)
    if sizes and count > 1:
        chosen = random.permutation(count)[: max(sizes)]
        neighbours = take(items, chosen)
        victims = session.run({name: _with_extreme(array) for name, array in neighbours.items()})
        _note(
            largest,
            signature,
            [array[chosen][:-1] for array in alone],
            [array[:-1] for array in victims],
        )
    scale = {spec.name: _scale(array) for spec, array in zip(signature.outputs, alone, strict=True)}
    return Invariance(
        difference=largest,
        relative={name: value / scale[name] for name, value in largest.items()},
        served=tuple(served),
    )


def _note(
    largest: dict[str, float], signature: Signature, alone: Outputs, together: Outputs
) -> None:
    for spec, one, other in zip(signature.outputs, alone, together, strict=True):
        difference = largest_difference(one, other)
        largest[spec.name] = max(largest[spec.name], difference)


def _with_extreme(array: NDArray[Any]) -> NDArray[Any]:
    """The same items, the last one blown up; whole numbers and texts stay in their range."""
    if array.dtype.kind != "f":
        return array
    changed = array.copy()
    changed[-1] = np.clip(changed[-1] * _EXTREME, *_finite_range(array))
    return changed


def _finite_range(array: NDArray[Any]) -> tuple[float, float]:
    limits = np.finfo(array.dtype)
    return float(limits.min), float(limits.max)


def _scale(array: NDArray[Any]) -> float:
    if array.dtype.kind != "f":
        return 1.0
    finite = np.abs(array[np.isfinite(array)])
    return max(float(np.max(finite, initial=0.0)), 1e-6)
