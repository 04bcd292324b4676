"""Amounts as people read them."""

from __future__ import annotations

from typing import Final

_KIB: Final = 2.0**10
_MIB: Final = 2.0**20


def byte_count(value: float) -> str:
    """Bytes in a unit that people read: `11.30 MiB`, `18.5 KiB`, `312 B`."""
    if abs(value) >= _MIB:
        return f"{value / _MIB:.2f} MiB"
    return f"{value / _KIB:.1f} KiB" if abs(value) >= _KIB else f"{value:.0f} B"
