"""Time that a search has had: a process that is stopped for a while loses none of it."""

from __future__ import annotations

import threading
import time
from typing import Final

_TICK_S: Final = 0.5
_LONGEST_TICK_S: Final = 10.0
"""A tick that took longer was none: the process was stopped, or the machine slept."""


class TimeIsUp(Exception):
    """A search's time ended while a trial was under way; nothing follows for the trial."""


class WorkingTime:
    """Seconds that this process could work since it was made, by a thread that counts them.

    Calling it gives the seconds, like a clock. Close it.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._before = time.monotonic()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._count, name="working time", daemon=True)
        self._thread.start()

    def __call__(self) -> float:
        """Seconds so far."""
        with self._lock:
            now = time.monotonic()
            passed = now - self._before
            self._seconds += passed if passed <= _LONGEST_TICK_S else 0.0
            self._before = now
            return self._seconds

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join()

    def _count(self) -> None:
        while not self._ended.wait(_TICK_S):
            self()
