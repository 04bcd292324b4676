"""What is counted for each version and variant. The event loop writes plain numbers, nobody locks.

Readers on other threads, the scrapes, see each number whole; see `Histogram` for distributions.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from server.histograms import ROWS, SECONDS, Histogram

REJECTIONS: Final = (
    *("queue_items", "queue_bytes", "total_items", "total_bytes", "queue_time"),
    *("would_be_late", "timeout", "deadline", "cancelled"),
)
_EXACT_ROWS: Final = 128
"""Runs of more rows count with the power of two below, so that callers cannot add sizes forever."""


class Duration:
    """How often something took how long in total."""

    __slots__ = ("count", "seconds")

    def __init__(self, count: int = 0, seconds: float = 0.0) -> None:
        self.count = count
        self.seconds = seconds

    @property
    def nanoseconds(self) -> int:
        """The total time."""
        return int(self.seconds * 1e9)

    def add(self, seconds: float, count: int = 1) -> None:
        """Count `count` happenings of `seconds` together."""
        self.count += count
        self.seconds += seconds


@dataclass(slots=True)
class CacheTotals:
    """Requests looked for in the cache, with the time that the look took.

    Attributes:
        hits: Those whose answer was there.
        misses: The others.
    """

    hits: Duration = field(default_factory=Duration)
    misses: Duration = field(default_factory=Duration)


@dataclass(slots=True, kw_only=True)
class Statistics:
    """What Triton's ModelStatistics call tells of a version.

    Attributes:
        success: Requests answered, from their arrival to their encoded answer.
        failed: Requests that were not, by the name of their gRPC status code.
        queue: Requests that ran, while they waited for a lane.
        compute: Requests that ran, each with the whole time of its run.
        rows: Rows computed.
        last_unix_s: When a request was last answered or refused; 0: never.
        by_rows: Runs by their rows.
        cache: Looks into the cache of answers.
    """

    success: Duration = field(default_factory=Duration)
    failed: dict[str, Duration] = field(default_factory=dict)
    queue: Duration = field(default_factory=Duration)
    compute: Duration = field(default_factory=Duration)
    rows: int = 0
    last_unix_s: float = 0.0
    by_rows: dict[int, Duration] = field(default_factory=dict)
    cache: CacheTotals = field(default_factory=CacheTotals)

    @property
    def runs(self) -> int:
        """How often the model ran."""
        return sum(duration.count for duration in self.by_rows.values())

    @property
    def fail(self) -> Duration:
        """Requests that were not answered, whatever their code."""
        every = Duration()
        for duration in self.failed.values():
            every.add(duration.seconds, duration.count)
        return every

    def include(self, other: Statistics) -> None:
        """Add what another counted."""
        for mine, theirs in (
            (self.success, other.success),
            (self.queue, other.queue),
            (self.compute, other.compute),
            (self.cache.hits, other.cache.hits),
            (self.cache.misses, other.cache.misses),
        ):
            mine.add(theirs.seconds, theirs.count)
        for code, duration in other.failed.items():
            self.failed.setdefault(code, Duration()).add(duration.seconds, duration.count)
        for rows, duration in other.by_rows.items():
            self.by_rows.setdefault(rows, Duration()).add(duration.seconds, duration.count)
        self.rows += other.rows
        self.last_unix_s = max(self.last_unix_s, other.last_unix_s)


class VariantMetrics:
    """What is counted for one variant; every method is a handful of additions.

    Attributes:
        version: Its version's.
        variant: Its id.
        created_unix_s: When counting began.
        request_seconds: From a request to its encoded answer, of requests that were answered.
        queue_seconds: Waiting for a lane, of requests that ran.
        compute_seconds: One run of the model.
        batch_rows: Rows in one run of the model.
        queue_depth: Requests that wait now.
        failed: Requests that got an error, by the name of its gRPC status code.
        by_rows: Runs by their rows.
        cache: Looks into the cache of answers; None while the variant has none.
    """

    __slots__ = (
        *(
            "_compute_per_request",
            "_last_unix_s",
            "batch_rows",
            "by_rows",
            "cache",
            "compute_seconds",
        ),
        *("created_unix_s", "failed", "queue_depth", "queue_seconds", "request_seconds"),
        *("variant", "version"),
    )

    def __init__(self, version: VersionMetrics, variant: str) -> None:
        self.version = version
        self.variant = variant
        self.created_unix_s = time.time()
        self.request_seconds = Histogram(SECONDS)
        self.queue_seconds = Histogram(SECONDS)
        self.compute_seconds = Histogram(SECONDS)
        self.batch_rows = Histogram(ROWS)
        self.queue_depth = 0
        self.failed: dict[str, Duration] = {}
        self.by_rows: dict[int, Duration] = {}
        self.cache: CacheTotals | None = None
        self._compute_per_request = Duration()
        self._last_unix_s = 0.0

    def ran(self, rows: int, queued_s: Sequence[float], compute_s: float) -> None:
        """One run of the model is over.

        Args:
            rows: Rows in the run.
            queued_s: How long each of its requests had waited.
            compute_s: How long it took.
        """
        requests = len(queued_s)
        self.queue_seconds.observe_all(queued_s)
        self.compute_seconds.observe(compute_s)
        self.batch_rows.observe(rows)
        self._compute_per_request.add(compute_s * requests, requests)
        size = rows if rows <= _EXACT_ROWS else 1 << (rows.bit_length() - 1)
        by_rows = self.by_rows.get(size)
        if by_rows is None:
            by_rows = self.by_rows[size] = Duration()
        by_rows.add(compute_s)

    def succeeded(self, seconds: Sequence[float]) -> None:
        """Requests got their answers; `seconds`: how long each took."""
        self.request_seconds.observe_all(seconds)
        self._last_unix_s = time.time()
        if self.version.latency_budget_s:
            self.version.weigh(seconds)

    def answered(self, code: str, seconds: float) -> None:
        """A request got its answer or its error."""
        self._last_unix_s = time.time()
        if self.version.latency_budget_s:
            self.version.weigh((seconds,))
        if code == "OK":
            self.request_seconds.observe(seconds)
            return
        failed = self.failed.get(code)
        if failed is None:
            failed = self.failed[code] = Duration()
        failed.add(seconds)

    def refused(self, reason: str) -> None:
        """A request was refused or dropped before it ran."""
        self.version.refused(reason)

    def queue_changed(self, waiting: int) -> None:
        """So many requests wait now."""
        self.queue_depth = waiting

    def cached(self) -> CacheTotals:
        """Where looks into the cache count; from now on they are told."""
        if self.cache is None:
            self.cache = CacheTotals()
        return self.cache

    def statistics(self) -> Statistics:
        """The running totals."""
        success, queue = self.request_seconds.read(), self.queue_seconds.read()
        return Statistics(
            success=Duration(success.count, success.total),
            failed=dict(self.failed),
            queue=Duration(queue.count, queue.total),
            compute=self._compute_per_request,
            rows=int(self.batch_rows.read().total),
            last_unix_s=self._last_unix_s,
            by_rows=dict(self.by_rows),
            cache=self.cache or CacheTotals(),
        )


class VersionMetrics:
    """What is counted for one version of a model.

    Attributes:
        model: Its model; "" where requests are counted that name no version there is.
        version: Its number.
        created_unix_s: When counting began.
        in_flight: Requests accepted and not yet answered.
        load_seconds: What its last load took.
        latency_budget_s: What a request may take before it counts as late; 0: none ever is.
        timed: Requests answered or failed while there was a budget.
        late: Those of them that took longer.
        rejected: Requests refused before they ran, by reason.
    """

    __slots__ = (
        *("_parts", "created_unix_s", "in_flight", "late", "latency_budget_s", "load_seconds"),
        *("model", "rejected", "timed", "version"),
    )

    def __init__(self, model: str, version: int) -> None:
        self.model = model
        self.version = version
        self.created_unix_s = time.time()
        self.in_flight = 0
        self.load_seconds = 0.0
        self.latency_budget_s = 0.0
        self.timed = 0
        self.late = 0
        self.rejected = dict.fromkeys(REJECTIONS if model else (), 0)
        self._parts: tuple[Statistics, tuple[VariantMetrics, ...]] = (Statistics(), ())

    @property
    def variants(self) -> tuple[VariantMetrics, ...]:
        """Every variant that was ever open and is not deleted."""
        return self._parts[1]

    def of_variant(self, variant: str) -> VariantMetrics:
        """The variant's own; what it counted before it was last closed goes on."""
        deleted, variants = self._parts
        for metrics in variants:
            if metrics.variant == variant:
                return metrics
        metrics = VariantMetrics(self, variant)
        self._parts = (deleted, (*variants, metrics))
        return metrics

    def forget_variant(self, variant: str) -> None:
        """Keep only what a deleted variant added to the version's totals."""
        deleted, variants = self._parts
        totals = Statistics()
        totals.include(deleted)
        for metrics in variants:
            if metrics.variant == variant:
                totals.include(metrics.statistics())
        self._parts = (totals, tuple(one for one in variants if one.variant != variant))

    def weigh(self, seconds: Sequence[float]) -> None:
        """Requests got their answers or errors, each after so long."""
        self.timed += len(seconds)
        self.late += sum(one > self.latency_budget_s for one in seconds)

    def refused(self, reason: str) -> None:
        """A request was refused or dropped before it ran."""
        self.rejected[reason] = self.rejected.get(reason, 0) + 1

    def statistics(self) -> Statistics:
        """The running totals of all its variants, deleted ones too."""
        deleted, variants = self._parts
        totals = Statistics()
        totals.include(deleted)
        for metrics in variants:
            totals.include(metrics.statistics())
        return totals
