"""Threads that compute, each one thing at a time."""

from __future__ import annotations

import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Final

from optimizers.contract.processors import use_all

_log: Final = logging.getLogger(__name__)

Work = Callable[[], None]


class Lanes:
    """So many threads, which take what there is to do in the order it came.

    Who became free last goes on first. A `ThreadPoolExecutor` wakes idle threads that find nothing
    to do, and makes a future with its locks for everything, which a small model's run notices.
    """

    def __init__(self, count: int) -> None:
        """Have up to `count` threads, which start as they are needed."""
        self._count = count
        self._board = _Board()
        self._threads: list[threading.Thread] = []
        # Whoever leaves the interpreter waits for what is at work; it is not stopped in between.
        self._end = weakref.finalize(self, _end, self._board, self._threads)

    def start(self, work: Work) -> bool:
        """Have a lane call `work`, which is to raise nothing; False when they are closed.

        Raises:
            RuntimeError: The machine has no more threads; `work` is not called.
        """
        board = self._board
        with board.lock:
            if board.is_closed:
                return False
            if board.idle:
                lane = board.idle.pop()
                lane.work = work
                lane.bell.release()
                return True
            if len(self._threads) < self._count:
                thread = threading.Thread(target=_work_off, args=(board,), name="lane", daemon=True)
                thread.start()
                self._threads.append(thread)
            board.to_do.append(work)
        return True

    def close(self) -> None:
        """Wait until everything is done that was started."""
        self._end()


class _Lane:
    """An idle thread: its bell rings when there is work, or when it is to look around."""

    __slots__ = ("bell", "work")

    def __init__(self) -> None:
        self.bell = threading.Lock()
        self.bell.acquire()
        self.work: Work | None = None


class _Board:
    """What lanes and those who give them work share."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        """Taken again where a collection ends forgotten lanes while it is held."""
        self.to_do: deque[Work] = deque()
        """What no idle lane was there for."""
        self.idle: list[_Lane] = []
        self.is_closed = False

    def next(self, lane: _Lane) -> Work | None:
        """What `lane` does next, as soon as there is something; None: nothing ever."""
        while True:
            with self.lock:
                if self.to_do:
                    return self.to_do.popleft()
                if self.is_closed:
                    return None
                self.idle.append(lane)
            lane.bell.acquire()
            work, lane.work = lane.work, None
            if work is not None:
                return work


def _work_off(board: _Board) -> None:
    use_all()
    lane = _Lane()
    while (work := board.next(lane)) is not None:
        try:
            work()
        except Exception:
            _log.exception("a lane's work failed")
        del work


def _end(board: _Board, threads: list[threading.Thread]) -> None:
    with board.lock:
        board.is_closed = True
        for lane in board.idle:
            lane.bell.release()
        board.idle.clear()
    for thread in threads:
        if thread is not threading.current_thread():
            thread.join()
