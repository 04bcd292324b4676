"""Who served one request, and when it waited and ran; kept only for requests that are traced."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class Timeline:
    """Points in the life of one request, on the monotonic clock in seconds; None: not reached.

    Attributes:
        identity: What its trace knows it by.
        served_by: Model, version and variant; empty until they are known.
        queued_at: When it began to wait for a lane.
        started_at: When its run began.
        ended_at: When its run was over.
        rows: Rows in its run.
        together: The traced requests of its run, itself among them.
    """

    __slots__ = (
        *("ended_at", "identity", "queued_at", "rows", "served_by", "started_at", "together"),
    )

    def __init__(self, identity: Any) -> None:
        self.identity = identity
        self.served_by: tuple[str, ...] = ()
        self.queued_at: float | None = None
        self.started_at: float | None = None
        self.ended_at: float | None = None
        self.rows = 0
        self.together: tuple[Timeline, ...] = ()


def note_run(
    timelines: Iterable[Timeline | None], *, rows: int, started_at: float, ended_at: float
) -> None:
    """Write a run into the timelines of its requests; those that are not traced have None."""
    together = tuple(timeline for timeline in timelines if timeline is not None)
    for timeline in together:
        timeline.started_at = started_at
        timeline.ended_at = ended_at
        timeline.rows = rows
        timeline.together = together
