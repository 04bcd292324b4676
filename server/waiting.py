"""Requests that wait for a lane: by priority, then in buckets of one shape each, oldest first."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, Protocol

from numpy.typing import NDArray

from optimizers.contract.runtime import Arrays, Feeds
from server.prompt import Prompt
from server.timeline import Timeline

Shapes = tuple[tuple[int, ...], ...]
"""Shapes of one row of each input, in the signature's order."""

_TEXT_BYTES: Final = 64
"""What Python adds to each text."""

LAST_LEVEL: Final = 1 << 30
"""Behind every priority: what waited too long where the queue policy says DELAY."""

_MOST_EMPTY_PLACES: Final = 64


BucketName = tuple[int, bool, Shapes | None, tuple[str, ...]]
"""Level, whether each runs alone, and what those have in common that may share a run."""


class Terms(NamedTuple):
    """On what terms a caller waits.

    Attributes:
        deadline: When it stops waiting, on the batcher's clock; None: never.
        timeout_s: Longest wait for a lane that it accepts; 0: no limit of its own.
        priority: The level it chose, 1 the highest; 0: the default.
        timeline: Where to note when it waits and runs; None: nowhere.
    """

    deadline: float | None = None
    timeout_s: float = 0.0
    priority: int = 0
    timeline: Timeline | None = None


NO_TERMS: Final = Terms()
"""Of a caller that waits for as long as it takes."""


class Alike(NamedTuple):
    """What requests of one form have in common.

    Attributes:
        rows: Length of each one's first dimension.
        shapes: As in `Waiting`.
        size_bytes: Bytes of each one's inputs.
        outputs: Names of the outputs wanted.
    """

    rows: int
    shapes: Shapes | None
    size_bytes: int
    outputs: tuple[str, ...]


class Endable(Protocol):
    """A run that may be ended because nobody waits for it."""

    def terminate(self) -> None:
        """End it soon."""


class Joint:
    """What the requests of one run share: how many callers still wait for it."""

    __slots__ = ("callers", "run")

    def __init__(self, callers: int) -> None:
        self.callers = callers
        self.run: Endable | None = None

    def leave(self) -> None:
        """One caller has gone; with the last the run ends."""
        self.callers -= 1
        if not self.callers and self.run is not None:
            self.run.terminate()


class Waiting:
    """One request in the line or in a run.

    Attributes:
        feeds: One array per input.
        rows: Length of the first dimension.
        outputs: Names of the outputs wanted.
        deadline: When its caller stops waiting; None: never.
        leaves_at: When it leaves the line if it did not run by then; None: never.
        since: When it came.
        future: Gets the answer.
        size_bytes: Bytes of its inputs.
        shapes: Of one row of each input; None where the first dimensions differ.
        level: Lower levels run first.
        runs_alone: Whether it shares no run.
        cost_s: Expected share of a run.
        joint: The run it takes part in; None while it waits.
        waits: Whether it is in the line.
        bucket: Where it stands there.
        timeline: Where its run is noted; None: nowhere.
    """

    __slots__ = (
        *(
            "bucket",
            "cost_s",
            "deadline",
            "feeds",
            "future",
            "joint",
            "leaves_at",
            "level",
            "outputs",
        ),
        *("rows", "runs_alone", "shapes", "since", "size_bytes", "timeline", "waits"),
    )

    def __init__(
        self,
        feeds: Feeds,
        rows: int,
        outputs: tuple[str, ...],
        since: float,
        future: Prompt,
        deadline: float | None = None,
        leaves_at: float | None = None,
        level: int = 0,
    ) -> None:
        self.feeds = feeds
        self.rows = rows
        self.outputs = outputs
        self.deadline = deadline
        self.leaves_at = leaves_at
        self.since = since
        self.future = future
        self.level = level
        self.cost_s = 0.0
        self.joint: Joint | None = None
        self.waits = False
        self.timeline: Timeline | None = None
        self.bucket: BucketName | None = None
        self.shapes, self.size_bytes = shapes_and_size(feeds, rows)
        self.runs_alone = self.shapes is None

    def leave_run(self) -> None:
        """The caller waits no longer for the run its request takes part in."""
        joint, self.joint = self.joint, None
        if joint is not None:
            joint.leave()

    def answer(self, arrays: Arrays) -> None:
        """Give the caller its answer, if it still waits."""
        if not self.future.done():
            self.future.answer(arrays)

    def fail(self, error: BaseException) -> None:
        """Give the caller an error, if it still waits."""
        if not self.future.done():
            self.future.set_exception(error)


_Bucket = deque[Waiting]


class WaitingLine:
    """What waits, and how much that is. A different shape waits beside the others, not before them.

    Attributes:
        items: Requests in the line.
        size_bytes: Bytes of their inputs.
        cost_s: Their expected time in runs.
    """

    def __init__(self) -> None:
        self._buckets: dict[BucketName, _Bucket] = {}
        self.items = 0
        self.size_bytes = 0
        self.cost_s = 0.0
        self._empty_places = 0

    def append(self, waiting: Waiting) -> None:
        """Put a request at the end of its bucket."""
        self._enter(waiting).append(waiting)

    def remove(self, waiting: Waiting) -> bool:
        """Take a request out at once, wherever it stands; whether it was there."""
        if not waiting.waits:
            return False
        self._leave(waiting)
        waiting.feeds = {}  # its place stays for a while, its arrays do not
        self._empty_places += 1
        if self._empty_places > max(_MOST_EMPTY_PLACES, self.items):
            self._close_ranks()
        return True

    def move_to_level(self, waiting: Waiting, level: int) -> None:
        """Let a request that waits go on waiting at another level."""
        self._bucket_of(waiting).remove(waiting)
        self._leave(waiting)
        waiting.level = level
        self.append(waiting)

    def put_back_alone(self, batch: Iterable[Waiting]) -> None:
        """Put requests back by their age, each to run by itself."""
        for waiting in batch:
            waiting.runs_alone = True
            bucket = self._enter(waiting)
            place = next((at for at, one in enumerate(bucket) if one.since > waiting.since), None)
            bucket.insert(len(bucket) if place is None else place, waiting)

    def oldest(self) -> Waiting | None:
        """The request that is next: of the lowest level the oldest."""
        self._drop_empty_places()
        return min((bucket[0] for bucket in self._buckets.values()), key=_rank, default=None)

    def leaders(self) -> list[Waiting]:
        """The first of every bucket, what is next first."""
        self._drop_empty_places()
        return sorted((bucket[0] for bucket in self._buckets.values()), key=_rank)

    def rows_beside(self, first: Waiting) -> int:
        """Rows of all requests that could share a run with `first`, its own included."""
        if first.runs_alone:
            return first.rows
        return sum([one.rows for one in self._bucket_of(first) if one.waits])

    def earliest_deadline_beside(self, first: Waiting) -> float | None:
        """When the first caller stops waiting of all that could share a run with `first`."""
        beside = [first] if first.runs_alone else self._bucket_of(first)
        ends = [one.deadline for one in beside if one.waits and one.deadline is not None]
        return min(ends, default=None)

    def take_batch(
        self, first: Waiting, max_rows: int, may_join: Callable[[Waiting, int], bool]
    ) -> list[Waiting]:
        """Take `first` and whatever may share its run, in order of age.

        Args:
            first: One of the `leaders`.
            max_rows: Most rows together; a request that has more runs alone.
            may_join: Asked of each candidate with the rows that the run would have.
        """
        bucket = self._bucket_of(first)
        bucket.popleft()
        self._leave(first)
        batch, rows = [first], first.rows
        passed_over: list[Waiting] = []
        while bucket and rows < max_rows and not first.runs_alone:
            candidate = bucket.popleft()
            if not candidate.waits:
                self._empty_places -= 1
            elif rows + candidate.rows <= max_rows and may_join(candidate, rows + candidate.rows):
                self._leave(candidate)
                batch.append(candidate)
                rows += candidate.rows
            else:
                passed_over.append(candidate)
        bucket.extendleft(reversed(passed_over))
        if not bucket and first.bucket is not None:
            del self._buckets[first.bucket]
        return batch

    def _bucket_of(self, waiting: Waiting) -> _Bucket:
        assert waiting.bucket is not None, "only what entered the line stands in it"
        return self._buckets[waiting.bucket]

    def _drop_empty_places(self) -> None:
        """Let what waits stand first in every bucket; drop buckets in which nothing does."""
        for name, bucket in list(self._buckets.items()):
            while bucket and not bucket[0].waits:
                bucket.popleft()
                self._empty_places -= 1
            if not bucket:
                del self._buckets[name]

    def _enter(self, waiting: Waiting) -> _Bucket:
        waiting.waits = True
        self.items += 1
        self.size_bytes += waiting.size_bytes
        self.cost_s += waiting.cost_s
        name = waiting.bucket = _bucket_name(waiting)
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = deque()
        return bucket

    def _leave(self, waiting: Waiting) -> None:
        waiting.waits = False
        self.items -= 1
        self.size_bytes -= waiting.size_bytes
        self.cost_s = self.cost_s - waiting.cost_s if self.items else 0.0

    def _close_ranks(self) -> None:
        """Drop the empty places that requests left which were taken out of the middle."""
        for name, bucket in list(self._buckets.items()):
            self._buckets[name] = kept = deque(one for one in bucket if one.waits)
            if not kept:
                del self._buckets[name]
        self._empty_places = 0


def shapes_and_size(feeds: Feeds, rows: int) -> tuple[Shapes | None, int]:
    """Shapes of one row of each input, None where the first dimensions differ; bytes of all."""
    size, has_rows, shapes = 0, True, []
    for array in feeds.values():
        size += _text_bytes(array) if array.dtype.hasobject else array.nbytes
        shape = array.shape
        if not shape or shape[0] != rows:
            has_rows = False
        shapes.append(shape[1:])
    return (tuple(shapes) if has_rows else None), size


def _rank(waiting: Waiting) -> tuple[int, float, bool]:
    return (waiting.level, waiting.since, not waiting.runs_alone)


def _bucket_name(waiting: Waiting) -> BucketName:
    if waiting.runs_alone:
        return (waiting.level, True, None, ())
    return (waiting.level, False, waiting.shapes, waiting.outputs)


def _text_bytes(array: NDArray[Any]) -> int:
    return array.nbytes + sum(len(text) + _TEXT_BYTES for text in array.flat)
