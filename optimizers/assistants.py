"""The further processes of a search: started, replaced when they crash, ended with it."""

from __future__ import annotations

import logging
import os
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from optimizers.process import PARENT_VARIABLE

_log = logging.getLogger(__name__)

MOST_STARTS: Final = 4
"""How often a process is started at most in one place: what crashes again and again is let be."""

_LOOK_EVERY_S: Final = 0.5


@contextmanager
def assistants(command: Sequence[str], log: Path, count: int) -> Iterator[None]:
    """Have further processes at work until the block ends.

    One that ends with another code than 0 is replaced; the search goes on meanwhile, and without
    it in the end.

    Args:
        command: What to run.
        log: Gets what they say, after what is there.
        count: How many, at least 0.
    """
    over = threading.Event()
    # They die with the thread that started them, so it is one that lives as long as they may.
    keeper = threading.Thread(target=_keep, args=(command, log, count, over), name="assistants")
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()


def _keep(command: Sequence[str], log: Path, count: int, over: threading.Event) -> None:
    places = [_Place(command, log) for _ in range(count)]
    try:
        while not over.wait(_LOOK_EVERY_S):
            for place in places:
                place.look()
    finally:
        for place in places:
            place.clear()


class _Place:
    """Room for one process."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._command = command
        self._log = log
        self._starts_left = MOST_STARTS
        self._process: subprocess.Popen[bytes] | None = None
        self._start()

    def look(self) -> None:
        """Start another process where one has crashed."""
        code = None if self._process is None else self._process.poll()
        if not code:
            return
        self._process = None
        goes_on = "another one takes its place" if self._starts_left else "nobody takes its place"
        _log.warning("a process of the search ended with code %d; %s", code, goes_on)
        if self._starts_left:
            self._start()

    def clear(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _start(self) -> None:
        self._starts_left -= 1
        environment = {**os.environ, PARENT_VARIABLE: str(os.getpid())}
        try:
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    self._command, env=environment, stdout=log, stderr=log
                )
        except OSError as error:
            _log.warning("a process of the search could not be started: %s", error)
