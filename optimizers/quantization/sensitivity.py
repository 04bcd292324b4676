"""Which nodes lose most as integers: each is left in floating point once, and the answers judged.

The judge is the signal-to-quantisation-noise ratio of the final outputs y and the int8 model's y~,
SQNR = 10 log10(sum y^2 / sum (y - y~)^2) in dB, on the items on which the two differ most, as in
NNCF's accuracy-aware quantisation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from optimizers.calibration import Arrays, fitting_batches, fixed_batch, item_count, take
from optimizers.contract.runtime import Session, SessionSpec

_MOST_ITEMS: Final = 64
_LEAST_NOISE: Final = 1e-30
_NUMBERS: Final = "fiub"

Answers = NDArray[np.float64]
"""All outputs of a model that are numbers, joined, [items, values]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """What leaving single nodes in floating point does.

    Attributes:
        everything: SQNR in dB with all nodes as integers.
        alone: Node → SQNR in dB with it alone in floating point, the best first.
        candidates: How many nodes there were; fewer were tried where time ran out.
        items: On how many items it was judged.
    """

    everything: float
    alone: dict[str, float]
    candidates: int
    items: int

    def best(self, count: int) -> list[str]:
        """At most so many nodes to keep, none that does not help."""
        helping = [name for name, value in self.alone.items() if value > self.everything]
        return helping[:count]


def rank(
    model: Path,
    quantized_without: Callable[[Sequence[str]], Path],
    candidates: Sequence[str],
    items: Arrays,
    seconds: float,
    report: Callable[[float, str], None],
) -> Ranking:
    """Try the candidates, those at the ends of the graph first: they are most often sensitive.

    Args:
        model: In floating point.
        quantized_without: Writes the int8 model with some nodes left in floating point.
        candidates: Names of nodes in the graph's order.
        items: What the models are run on; judged on the 64 on which they differ most, or the
            next lower multiple of the batch where that is fixed.
        seconds: No candidate is begun later than this; the first is always tried.
        report: Takes the share that is done and a text.
    """
    started = time.monotonic()
    wanted, found = answers(model, items), answers(quantized_without(()), items)
    worst = most_different(wanted, found, _most_items(model))
    wanted, judged = wanted[worst], take(items, worst)
    alone: dict[str, float] = {}
    for name in _from_the_ends(candidates):
        if alone and time.monotonic() - started > seconds:
            break
        alone[name] = sqnr(wanted, answers(quantized_without((name,)), judged))
        report(len(alone) / len(candidates), f"tried {len(alone)} of {len(candidates)} nodes")
    ordered = sorted(alone.items(), key=lambda pair: -pair[1])
    return Ranking(
        everything=sqnr(wanted, found[worst]),
        alone=dict(ordered),
        candidates=len(candidates),
        items=len(worst),
    )


def sqnr(wanted: Answers, found: Answers) -> float:
    """Signal-to-quantisation-noise ratio in dB."""
    signal, noise = float(np.square(wanted).sum()), float(np.square(wanted - found).sum())
    return 10 * float(np.log10(max(signal, _LEAST_NOISE) / max(noise, _LEAST_NOISE)))


def most_different(wanted: Answers, found: Answers, most: int = _MOST_ITEMS) -> NDArray[np.intp]:
    """Numbers of the items with the most noise beside their signal, the worst first."""
    noise = np.square(wanted - found).sum(axis=1)
    signal = np.maximum(np.square(wanted).sum(axis=1), _LEAST_NOISE)
    return np.argsort(-noise / signal, kind="stable")[:most]


def answers(model: Path, items: Arrays) -> Answers:
    """What a model answers, on the kernels that will serve it.

    Items after the last full batch are left out where the model's batch is fixed.
    """
    with closing(Session(model, SessionSpec())) as session:
        parts = [
            _joined(session.run(part), item_count(part))
            for part in fitting_batches(items, session.signature, 1)
        ]
    return np.concatenate(parts)


def _most_items(model: Path) -> int:
    """On how many items models are judged: full batches of at least one and about 64 items."""
    with closing(Session(model, SessionSpec())) as session:
        fixed = fixed_batch(session.signature) or 1
    return max(fixed, _MOST_ITEMS - _MOST_ITEMS % fixed)


def _joined(outputs: Sequence[NDArray[np.generic]], items: int) -> Answers:
    numbers = [one.astype(np.float64) for one in outputs if one.dtype.kind in _NUMBERS]
    return np.concatenate([_by_item(one, items) for one in numbers], axis=1)


def _by_item(output: Answers, items: int) -> Answers:
    """One row an item; an output that cannot be parted belongs to each of them."""
    if output.size % items:
        return np.repeat(output.reshape(1, -1), items, axis=0)
    return output.reshape(items, -1)


def _from_the_ends(names: Sequence[str]) -> list[str]:
    """First, last, second, last but one, and so on."""
    return [names[index // 2 if index % 2 == 0 else -1 - index // 2] for index in range(len(names))]
