"""How the work of judging is told to whoever waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable

Report = Callable[[str, float, str], None]
"""Takes the stage, the share of the evaluation that is done, and a text."""

Share = Callable[[float], None]
"""Takes the share of one piece of work that is done, in [0, 1]."""


def unheard(share: float) -> None:
    """Nobody wants to know."""


def at_most_every(
    seconds: float, share: Share, clock: Callable[[], float] = time.monotonic
) -> Share:
    """`share`, but called no more often than once in `seconds`: thousands of items make no line."""
    told = clock()

    def rarely(done: float) -> None:
        nonlocal told
        if clock() - told >= seconds:
            told = clock()
            share(done)

    return rarely


def untold(stage: str, share: float, text: str) -> None:
    """Nobody waits for progress; a `Report`."""
