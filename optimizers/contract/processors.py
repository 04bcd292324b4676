"""Work that can wait leaves one processor to those who answer.

A kernel that does not preempt lets a busy thread finish its turn, milliseconds, before others run
on the same processor; low priority changes little. Where every processor has a busy thread, whoever
answers requests waits behind one of them: the 99th percentile of a bare handler on two processors
rose from 1 to 6 ms beside two busy threads, and not at all when both shared one processor.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Final

_ALL: Final = frozenset(os.sched_getaffinity(0))


def keep_aside() -> None:
    """Keep the calling thread, and those it will start, off one of several processors."""
    _use(_ALL - {min(_ALL)} or _ALL)


@contextlib.contextmanager
def everywhere() -> Iterator[None]:
    """Let the calling thread, and those it starts here, use every processor for a while."""
    before = os.sched_getaffinity(0)
    _use(_ALL)
    try:
        yield
    finally:
        _use(before)


def _use(processors: frozenset[int] | set[int]) -> None:
    # A processor may have been taken away since this process started; then all that are left do.
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, processors)
