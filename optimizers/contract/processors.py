"""Work that can wait leaves one processor to those who answer.

A kernel that does not preempt lets a busy thread finish its turn, milliseconds, before others run
on the same processor; low priority changes little. Where every processor has a busy thread, whoever
answers requests waits behind one of them: the 99th percentile of a bare handler on two processors
rose from 1 to 6 ms beside two busy threads, and not at all when both shared one processor.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import Final

PROCESSORS_VARIABLE: Final = "HONE_WORKER_PROCESSORS"
"""Environment variable with the processors of whoever started a worker, which it may use."""

_told = os.environ.get(PROCESSORS_VARIABLE, "")
_ALL: Final = frozenset(map(int, _told.split(",")) if _told else os.sched_getaffinity(0))
_LEFT: Final = frozenset({min(_ALL)})


def processors_for_workers() -> dict[str, str]:
    """What tells a worker of this process's processors, wherever the thread is that starts it."""
    return {PROCESSORS_VARIABLE: ",".join(map(str, sorted(_ALL)))}


def use_all() -> None:
    """Let the calling thread, and those it will start, use every processor."""
    _use(_ALL)


def keep_aside() -> None:
    """Keep the calling thread, and those it will start, off one of several processors."""
    _use(_ALL - _LEFT or _ALL)


def keep_clear(threads: Iterable[int], *, of_what_is_aside: bool) -> None:
    """Keep threads on the processor that `keep_aside` leaves, or let them go everywhere again.

    Args:
        threads: Their ids, as the kernel counts.
        of_what_is_aside: Whether to keep them there.
    """
    for thread in threads:
        _use(_LEFT if of_what_is_aside else _ALL, thread)


@contextlib.contextmanager
def everywhere() -> Iterator[None]:
    """Let the calling thread, and those it starts here, use every processor for a while."""
    before = os.sched_getaffinity(0)
    _use(_ALL)
    try:
        yield
    finally:
        _use(before)


def _use(processors: frozenset[int] | set[int], thread: int = 0) -> None:
    # A processor may have been taken away since this process started, or the thread have ended.
    with contextlib.suppress(OSError):
        os.sched_setaffinity(thread, processors)
