"""Whoever answers beside a measurement soon has his processor back.

When a thread sleeps or wakes the kernel chooses who runs, and takes nobody who has had more than
his share, be it by a microsecond. Threads that hand a request on to each other sleep and wake
several times, and at one of these whatever computes beside them is chosen, however low its
priority. Its turn is over in microseconds, but the kernel does not look before its next tick, up
to 4 ms later (Linux since 6.6): beside a run on both of two processors one burst of requests in
eight took 3 to 6 ms instead of one. A thread that wakes twice in a millisecond makes it look.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Final

from optimizers.contract.processors import shared_with_answering, use_only
from optimizers.contract.turns import take_short_turns
from optimizers.evaluation.quiet import Quiet

_EVERY_S: Final = 0.0005
_LOOK_EVERY_S: Final = 0.05


@contextlib.contextmanager
def interrupted(quiet: Quiet) -> Iterator[None]:
    """Measure, and be interrupted again and again while `quiet` sees others at work.

    It costs what is measured a hundredth of one processor, and nothing where nobody is at work, or
    where those who answer have no processor that they share with a worker.
    """
    processors, over = shared_with_answering(), threading.Event()

    def interrupt() -> None:
        use_only(processors)
        take_short_turns()
        while not over.is_set():
            time.sleep(_EVERY_S if quiet.others_work else _LOOK_EVERY_S)

    if not processors:
        yield
        return
    thread = threading.Thread(target=interrupt, name="interruptions", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
