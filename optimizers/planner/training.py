"""How long a proposal trains: as many epochs as a quarter of the search's time has room for."""

from __future__ import annotations

from typing import Final

from optimizers.contract.amounts import number, time_span
from optimizers.contract.distillation import Distill
from optimizers.contract.steps import Step
from optimizers.contract.training import Training
from optimizers.planner.fitting import as_allowed, numbers
from optimizers.planner.reading import Reading

_PASSES: Final = 6
"""Runs that an item costs in training: forward, twice as much backward, and torch is slower."""

_SHARE_OF_SEARCH: Final = 0.25
_MINUTE_S: Final = 60.0
_LARGE_BATCH: Final = 128
_STEPS_AN_EPOCH: Final = 20
_EPOCHS: Final = "training.epochs"


def distilled(reading: Reading) -> Distill:
    """Training to answer like the original, in strength as it paid on the reference models.

    Convolutional nets that lost channels want large steps, encoders small ones.
    """
    count = epochs(reading, Distill)
    if reading.is_encoder:
        step = Distill(training=Training(learning_rate=1e-4, epochs=count))
    else:
        batch = _LARGE_BATCH if _items(reading) >= _STEPS_AN_EPOCH * _LARGE_BATCH else 64
        training = Training(learning_rate=1e-2, batch_size=batch, epochs=count)
        step = Distill(weight=0.5, training=training)
    return as_allowed(step, reading.search)


def epochs(reading: Reading, step: type[Step]) -> int:
    """The most of those that may be tried and fit; the fewest where none does."""
    room_s = _SHARE_OF_SEARCH * _MINUTE_S * reading.search.minutes
    counts = [max(1, round(one)) for one in numbers(step, _EPOCHS, reading.search)] or [1]
    fitting = (one for one in counts if one * _epoch_s(reading) <= room_s)
    return max(fitting, default=counts[0])


def said(reading: Reading, training: Training) -> str:
    """What is to be said of it."""
    taken_s = training.epochs * _epoch_s(reading)
    taken = number(taken_s / _MINUTE_S) if taken_s >= _MINUTE_S else time_span(taken_s)
    room = f"{number(reading.search.minutes)} minutes"
    return f"{training.epochs} epochs of {_items(reading)} items, about {taken} of {room}"


def _epoch_s(reading: Reading) -> float:
    return _items(reading) * _PASSES * reading.evidence.batch_item_s


def _items(reading: Reading) -> int:
    return reading.evidence.data.get("train", 0)
