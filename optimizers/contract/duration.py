"""Durations as operators write them: a number and a unit, `20 ms`."""

from __future__ import annotations

import re
from typing import Final

from optimizers.contract.errors import InvalidDocument

TIME_UNITS: Final = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6}
"""Every unit that may be written, in seconds."""

_LONGEST: Final = 32
_DURATION: Final = re.compile(r"\s*(\d{1,12}(?:\.\d{1,12})?)\s*([a-zµ]{1,2})?\s*")


def duration_s(value: object) -> float:
    """Seconds of a text like `20 ms`; 0 needs no unit.

    Raises:
        InvalidDocument: It is no duration.
    """
    text = str(value) if isinstance(value, str | int | float) else ""
    match = _DURATION.fullmatch(text) if len(text) <= _LONGEST else None
    if match is not None and float(match[1]) == 0:
        return 0.0
    if match is None or match[2] not in TIME_UNITS:
        raise InvalidDocument(
            f"expected a number and one of {', '.join(TIME_UNITS)}, for example 20 ms, or 0"
        )
    return float(match[1]) * TIME_UNITS[match[2]]
