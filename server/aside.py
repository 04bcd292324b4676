"""Threads for what no caller waits for: models are opened and closed beside those served."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from optimizers.contract.processors import answering_threads_are, use_all
from optimizers.contract.turns import take_long_turns

_THREADS: Final = 8
_TRANSPORT: Final = "grpc-native-io"
"""What the native transport calls its threads."""

_DISPATCH: Final = "pygrpc-native-dispatch"
"""What it calls the thread that hands calls to the event loop, which is one of Python's."""


def executor_aside() -> ThreadPoolExecutor:
    """Threads that keep out of the way of those who answer: the caller's and the transport's.

    Call it from the event loop's thread, once the server listens.
    """
    dispatching = [
        thread.native_id
        for thread in threading.enumerate()
        if thread.name == _DISPATCH and thread.native_id is not None
    ]
    answering_threads_are((threading.get_native_id(), *dispatching, *_threads_called(_TRANSPORT)))
    return ThreadPoolExecutor(_THREADS, "aside", initializer=_begin)


def _begin() -> None:
    # Whoever starts a thread while others stand aside is on one processor, and so is the thread.
    use_all()
    take_long_turns()


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
