"""What was true when: a value that changes while others look, and what they may have seen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Changing(Generic[_T]):
    """A value that one task changes; while a change is under way, old and new are both possible."""

    def __init__(self, value: _T) -> None:
        self.value = value
        self._past: list[tuple[float, _T]] = []
        """When a value was last possible, and which."""
        self._possible: list[tuple[float, _T]] = [(time.monotonic(), value)]
        """Since when a value is possible now, and which."""

    @contextmanager
    def becoming(self, value: _T) -> Iterator[None]:
        """Change it to `value`; if the block fails, to what it was."""
        former = self.value
        self._possible.append((time.monotonic(), value))
        try:
            yield
        except BaseException:
            value = former
            raise
        finally:
            now = time.monotonic()
            self._past += [(now, one) for _, one in self._possible if one != value]
            self._possible = [(since, one) for since, one in self._possible if one == value][:1]
            self.value = value

    def since(self, moment: float) -> list[_T]:
        """What it may have been at some time from `moment` on."""
        past = [value for until, value in self._past if until >= moment]
        return [*past, *(value for _, value in self._possible)]
