"""Of several processes that try recipes on one machine, one measures while the others stand still.

A file is locked by whoever measures; the kernel unlocks it when they die. Whoever builds looks
now and then, and stops its building child for as long.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

LOOK_EVERY_S: Final = 0.2
"""How often builders must ask whether somebody measures."""


class Turns:
    """Who measures, as one of `count` processes sees it."""

    def __init__(self, file: Path, count: int) -> None:
        """Agree by `file`, which is made.

        Args:
            file: On a file system of this machine.
            count: How many processes take turns, at least 1.
        """
        self._file = file
        self._count = count
        file.touch()

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """Measure: nobody else does, and what others build stands still."""
        if self._count == 1:
            yield
            return
        with self._opened() as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            time.sleep(2 * LOOK_EVERY_S)  # until all have looked
            yield

    def others_measure(self) -> bool:
        """Whether somebody else measures right now."""
        if self._count == 1:
            return False
        with self._opened() as descriptor:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        """The file, unlocked by being closed."""
        descriptor = os.open(self._file, os.O_RDWR)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
