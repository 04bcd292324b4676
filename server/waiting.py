"""Requests that wait for a lane, in order of age."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from optimizers.contract.runtime import Feeds
from server.timeline import Timeline

Arrays = list[NDArray[Any]]

_TEXT_BYTES: Final = 64
"""What Python adds to each text."""


class Waiting:
    """One request in the line.

    Attributes:
        feeds: One array per input.
        rows: Length of the first dimension.
        outputs: Names of the outputs wanted.
        deadline: When its caller stops waiting; None: never.
        since: When it came.
        future: Gets the answer.
        size_bytes: Bytes of its inputs.
        key: Requests of equal keys may share a run; None: it runs alone.
        timeline: Where its run is noted; None: nowhere.
    """

    __slots__ = (
        *("deadline", "feeds", "future", "key", "outputs", "rows", "since", "size_bytes"),
        "timeline",
    )

    def __init__(
        self,
        feeds: Feeds,
        rows: int,
        outputs: tuple[str, ...],
        deadline: float | None,
        since: float,
        future: asyncio.Future[Arrays],
    ) -> None:
        self.feeds = feeds
        self.rows = rows
        self.outputs = outputs
        self.deadline = deadline
        self.since = since
        self.future = future
        self.timeline: Timeline | None = None
        self.size_bytes = sum(_size_bytes(array) for array in feeds.values())
        self.key: tuple[Any, ...] | None = (outputs,)
        for name, array in feeds.items():
            if array.ndim == 0 or array.shape[0] != rows:
                self.key = None
                break
            self.key += (name, array.shape[1:])

    def answer(self, arrays: Arrays) -> None:
        """Give the caller its answer, if it still waits."""
        if not self.future.done():
            self.future.set_result(arrays)

    def fail(self, error: BaseException) -> None:
        """Give the caller an error, if it still waits."""
        if not self.future.done():
            self.future.set_exception(error)


class WaitingLine:
    """What waits, oldest first, and how many bytes it holds."""

    def __init__(self) -> None:
        self._queue: deque[Waiting] = deque()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._queue)

    def append(self, waiting: Waiting) -> None:
        """Put a request at the end."""
        self._queue.append(waiting)
        self.size_bytes += waiting.size_bytes

    def remove(self, waiting: Waiting) -> bool:
        """Take a request out; whether it was there."""
        try:
            self._queue.remove(waiting)
        except ValueError:
            return False
        self.size_bytes -= waiting.size_bytes
        return True

    def put_back_alone(self, batch: Iterable[Waiting]) -> None:
        """Put requests back in front, in their order, each to run by itself."""
        for waiting in reversed(list(batch)):
            waiting.key = None
            self._put_in_front(waiting)

    def take_batch(self, max_rows: int, is_live: Callable[[Waiting], bool]) -> list[Waiting]:
        """Take the oldest live request and whatever may share its run, in order of age.

        Args:
            max_rows: Most rows together; a request that has more runs alone.
            is_live: Asked of each request looked at; those that are not are dropped.

        Returns:
            Empty when nothing live waits.
        """
        while self._queue:
            first = self._take()
            if is_live(first):
                break
        else:
            return []
        batch, rows = [first], first.rows
        if max_rows == 1 or first.key is None:
            return batch
        passed_over: list[Waiting] = []
        while self._queue and rows < max_rows:
            candidate = self._take()
            if not is_live(candidate):
                continue
            if candidate.key == first.key and rows + candidate.rows <= max_rows:
                batch.append(candidate)
                rows += candidate.rows
            else:
                passed_over.append(candidate)
        for candidate in reversed(passed_over):
            self._put_in_front(candidate)
        return batch

    def _take(self) -> Waiting:
        waiting = self._queue.popleft()
        self.size_bytes -= waiting.size_bytes
        return waiting

    def _put_in_front(self, waiting: Waiting) -> None:
        self._queue.appendleft(waiting)
        self.size_bytes += waiting.size_bytes


def _size_bytes(array: NDArray[Any]) -> int:
    if array.dtype != np.object_:
        return array.nbytes
    return array.nbytes + sum(len(text) + _TEXT_BYTES for text in array.flat)
