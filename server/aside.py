"""Threads for what no caller waits for: models are opened and closed beside those served."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from optimizers.contract.processors import keep_aside, keep_clear

_T = TypeVar("_T")
_THREADS: Final = 8
_TRANSPORT: Final = "grpc-native-io"
"""What the native transport calls its threads."""


class Aside(ThreadPoolExecutor):
    """An executor that keeps out of the way of the threads that serve, and these out of its way.

    While it works, it has all processors but one to itself, and that one is theirs: a kernel that
    does not preempt would let a session that is being opened hold them up for milliseconds. Lanes
    run everywhere all the time.
    """

    def __init__(self) -> None:
        """Call it from the event loop's thread, once the server listens."""
        super().__init__(_THREADS, "aside", initializer=keep_aside)
        self._serving = [threading.get_native_id(), *_threads_called(_TRANSPORT)]
        self._under_way = 0
        self._lock = threading.Lock()

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]:
        """Do something soon."""
        self._change(1)
        try:
            future = super().submit(fn, *args, **kwargs)
        except BaseException:
            self._change(-1)
            raise
        future.add_done_callback(lambda _: self._change(-1))
        return future

    def _change(self, by: int) -> None:
        with self._lock:
            was_idle = not self._under_way
            self._under_way += by
            if was_idle or not self._under_way:
                keep_clear(self._serving, of_what_is_aside=bool(self._under_way))


def _threads_called(name: str) -> list[int]:
    """The threads of this process that were given this name."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        try:
            if (task / "comm").read_text(encoding="utf-8").strip() == name:
                found.append(int(task.name))
        except OSError:
            continue  # it has just ended
    return found
