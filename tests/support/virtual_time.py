"""An event loop whose clock jumps to the next timer: hours pass at once, always the same way."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")
_LATE_S = 2e-9
"""Timers are a little late, as everywhere; and never early by the last bit of a float."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """Waits for nothing. Where nothing will ever happen it fails, and so no test can hang."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_Selector(self))

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self.now


class _Selector(selectors.SelectSelector):
    """Turns the time that would be slept into time that has passed."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if not events and timeout is None:
            raise AssertionError("somebody waits for what will never happen")
        if not events and timeout:
            self._loop.now += timeout + _LATE_S
        return events


def run_in_virtual_time(main: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine to its end in a loop of its own."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(main)
    finally:
        loop.close()
