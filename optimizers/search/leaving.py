"""When a guest of a search goes although nobody has told it to."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from optimizers.search.leases import Leases

_LOOK_EVERY_S: Final = 5.0
_PATIENCE_S: Final = 600.0
"""A server may be started again, and its search be taken up, in that time."""
_ABANDONED: Final = "nobody runs the search any more; once it is submitted again it goes on"


class Leaving:
    """Tells a guest why to go: because it was told to, or because nobody runs the search."""

    def __init__(
        self,
        told: Callable[[], str],
        leases: Leases,
        clock: Callable[[], float] = time.monotonic,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        """Look now and then.

        Args:
            told: Why somebody has told it to go; "": nobody has.
            leases: Of the study.
            clock: Seconds, for when to look.
            patience_s: For how long nobody may run the search.
        """
        self._told = told
        self._leases = leases
        self._clock = clock
        self._patience_s = patience_s
        self._next_look = 0.0
        self._is_abandoned = False

    def __call__(self) -> str:
        """Why to go; "" to stay."""
        now = self._clock()
        if now >= self._next_look:
            self._next_look = now + _LOOK_EVERY_S
            self._is_abandoned = self._leases.nobody_runs_the_search(self._patience_s)
        return self._told() or (_ABANDONED if self._is_abandoned else "")
