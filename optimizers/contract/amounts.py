"""Numbers as people read them: four digits, a unit of the right size, no exponents."""

from __future__ import annotations

from typing import Final

_LEAST_GROUPED: Final = 1e3
_LARGEST_GROUPED: Final = 1e15
_UNITS: Final = ((2.0**30, "GiB"), (2.0**20, "MiB"))
_KIB: Final = 2.0**10
_ONE_PERCENT: Final = 0.01
_LEAST_SHOWN: Final = 0.001


def number(value: float) -> str:
    """A number: `0.3481`, `27.5`, `12,345`."""
    grouped = _LEAST_GROUPED <= abs(value) < _LARGEST_GROUPED
    return f"{value:,.0f}" if grouped else f"{value:.4g}"


def byte_count(value: float) -> str:
    """Bytes: `11.30 MiB`, `97.2 KiB`, `12 B`."""
    for size, unit in _UNITS:
        if abs(value) >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value / _KIB:.1f} KiB" if abs(value) >= _KIB else f"{value:.0f} B"


def time_span(seconds: float) -> str:
    """Seconds: `1.25 s`, `0.348 ms`."""
    return f"{number(seconds)} s" if abs(seconds) >= 1 else f"{number(1e3 * seconds)} ms"


def quantity(unit: str, value: float) -> str:
    """A value in the unit that figures have: seconds and bytes in a fitting one."""
    match unit:
        case "s":
            return time_span(value)
        case "B":
            return byte_count(value)
        case "":
            return f"{value:.4f}"
    return f"{number(value)} {unit}"


def percent(share: float) -> str:
    """A share that is at least 0: `83 %`, `0.4 %`."""
    if 0 < share < _LEAST_SHOWN:
        return "less than 0.1 %"
    return f"{100 * share:.{1 if 0 < share < _ONE_PERCENT else 0}f} %"
