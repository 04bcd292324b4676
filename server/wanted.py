"""Which conversions are still wanted: what nobody waits for any more ends at once."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


class Attempt:
    """One conversion, from when it is asked for to its end.

    Attributes:
        model: The name of the model that it is for.
        directory: The folder that it fills.
        why: Why it is to end; "" while it is wanted.
    """

    def __init__(self, model: str, directory: Path) -> None:
        """It is wanted."""
        self.model = model
        self.directory = directory
        self.why = ""
        self._unwanted = asyncio.Event()

    def end(self, why: str) -> None:
        """It is wanted no more; the first reason is the one that is told."""
        self.why = self.why or why
        self._unwanted.set()

    async def unwanted(self) -> None:
        """Wait until it is wanted no more."""
        await self._unwanted.wait()


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Bar:
    """What is not wanted: conversions of `model`, of any for "", but into `directories`."""

    model: str
    directories: frozenset[Path]
    why: str

    def against(self, attempt: Attempt) -> bool:
        meant = self.model in ("", attempt.model)
        return meant and attempt.directory not in self.directories


class Wanted:
    """The conversions under way, and what may be. Belongs to one event loop."""

    def __init__(self) -> None:
        """Everything is wanted."""
        self._attempts: list[Attempt] = []
        self._bars: list[_Bar] = []

    @contextmanager
    def attempt(self, model: str, directory: Path) -> Iterator[Attempt]:
        """Be under way; what is not wanted from the start says why at once."""
        attempt = Attempt(model, directory)
        for bar in self._bars:
            if bar.against(attempt):
                attempt.end(bar.why)
        self._attempts.append(attempt)
        try:
            yield attempt
        finally:
            self._attempts.remove(attempt)

    @contextmanager
    def only(self, model: str, directories: Collection[Path], why: str) -> Iterator[None]:
        """As long as the context lasts, want of a model nothing but what fills `directories`."""
        bar = self._raise(_Bar(model=model, directories=frozenset(directories), why=why))
        try:
            yield
        finally:
            self._bars.remove(bar)

    def close(self, why: str) -> None:
        """Nothing is wanted, for ever."""
        self._raise(_Bar(model="", directories=frozenset(), why=why))

    def _raise(self, bar: _Bar) -> _Bar:
        self._bars.append(bar)
        for attempt in self._attempts:
            if bar.against(attempt):
                attempt.end(bar.why)
        return bar
