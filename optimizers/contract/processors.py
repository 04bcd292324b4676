"""Work that can wait leaves one processor to those who answer.

A kernel that does not preempt lets a busy thread finish its turn, milliseconds, before others run
on the same processor; low priority changes little. Where every processor has a busy thread, whoever
answers requests waits behind one of them: the 99th percentile of a bare handler on two processors
rose from 1 to 6 ms beside two busy threads, and not at all when both shared one processor.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterable, Iterator
from typing import Final

PROCESSORS_VARIABLE: Final = "HONE_WORKER_PROCESSORS"
"""Environment variable with the processors of whoever started a worker, which it may use."""

_told = os.environ.get(PROCESSORS_VARIABLE, "")
_ALL: Final = frozenset(map(int, _told.split(",")) if _told else os.sched_getaffinity(0))
_LEFT: Final = frozenset({min(_ALL)})
_FEW: Final = 2

_libc: Final = ctypes.CDLL(None)
_MASK_BYTES: Final = 1024
"""Room for 8192 processors, the most that Linux is built for."""


def processors_for_workers() -> dict[str, str]:
    """What tells a worker of this process's processors, wherever the thread is that starts it."""
    return {PROCESSORS_VARIABLE: ",".join(map(str, sorted(_ALL)))}


def use_all() -> None:
    """Let the calling thread, and those it will start, use every processor."""
    _use(_ALL)


def keep_aside() -> None:
    """Keep the calling thread, and those it will start, off one of several processors."""
    _use(_ALL - _LEFT or _ALL)


class _Answering:
    """The threads that answer requests, and how many others stand aside for them right now."""

    def __init__(self) -> None:
        self._threads: tuple[int, ...] = ()
        self._aside = 0
        self._lock = threading.Lock()

    @property
    def are_known(self) -> bool:
        return bool(self._threads)

    def are(self, threads: Iterable[int]) -> None:
        with self._lock:
            self._threads = tuple(threads)

    def change(self, aside: int) -> None:
        with self._lock:
            before, self._aside = self._aside, self._aside + aside
            if not before or not self._aside:
                for thread in self._threads:
                    _use(_LEFT if self._aside else _ALL, thread)


_answering: Final = _Answering()


def answering_threads_are(threads: Iterable[int]) -> None:
    """Tell which threads of this process answer requests; ids as the kernel counts.

    They have the processor to themselves that others leave, while others stand `aside`.
    """
    _answering.are(threads)


@contextlib.contextmanager
def aside() -> Iterator[None]:
    """Do something long that needs no interpreter, away from those who answer here, if any do.

    Whoever holds the interpreter must be free to run where there is room: a thread that had it and
    was kept on a processor with another busy process stopped the whole server for 300 ms.
    """
    if not _answering.are_known:
        yield
        return
    _answering.change(1)
    try:
        with off_one_processor():
            yield
    finally:
        _answering.change(-1)


@contextlib.contextmanager
def beside_a_worker() -> Iterator[None]:
    """While a worker keeps all processors busy but one: of two, that one is for those who answer.

    Among more, a thread that wakes finds an idle one.
    """
    change = 1 if shared_with_answering() else 0
    _answering.change(change)
    try:
        yield
    finally:
        _answering.change(-change)


def shared_with_answering() -> frozenset[int]:
    """The processor of those who answer `beside_a_worker`; where they have none, none."""
    return _LEFT if len(_ALL) == _FEW else frozenset()


def use_only(processors: frozenset[int]) -> None:
    """Keep the calling thread, and those it will start, on these."""
    _use(processors)


@contextlib.contextmanager
def everywhere() -> Iterator[None]:
    """Let the calling thread, and those it starts here, use every processor for a while."""
    with _on(_ALL):
        yield


@contextlib.contextmanager
def off_one_processor() -> Iterator[None]:
    """Like `keep_aside`, for a while."""
    with _on(_ALL - _LEFT or _ALL):
        yield


@contextlib.contextmanager
def _on(processors: frozenset[int]) -> Iterator[None]:
    before = os.sched_getaffinity(0)
    _use(processors)
    try:
        yield
    finally:
        _use(before)


def _use(processors: frozenset[int] | set[int], thread: int = 0) -> None:
    """Go, without the interpreter: the way may be long, and os.sched_setaffinity takes it along.

    It fails, and changes nothing, where a processor was taken away since this process started, or
    where the thread has ended.
    """
    mask = sum(1 << processor for processor in processors).to_bytes(_MASK_BYTES, "little")
    _libc.sched_setaffinity(thread, _MASK_BYTES, mask)
