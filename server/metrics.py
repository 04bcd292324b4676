"""The one owner of every metric. Labels come from closed sets: no caller's text becomes one.

The hot path calls `VariantMetrics`, which keeps its own label children and plain counters.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from optimizers.contract.memory import ResidentMemory

_SECONDS: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01),
    *(0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
_ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_EXACT_ROWS: Final = 128
"""Runs of more rows count with the power of two below, so that callers cannot add sizes forever."""
_JOB_SECONDS: Final = (1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600, 4 * 3600)
SWAP_RESULTS: Final = ("promoted", "rolled_back", "refused", "failed", "fell_back")
REJECTIONS: Final = ("queue_items", "queue_bytes", "deadline", "cancelled")
_OF_VARIANT: Final = ("model", "version", "variant")


class Duration:
    """How often something took how long in total."""

    __slots__ = ("count", "nanoseconds")

    def __init__(self) -> None:
        self.count = 0
        self.nanoseconds = 0

    def add(self, seconds: float, count: int = 1) -> None:
        """Count `count` happenings of `seconds` each."""
        self.count += count
        self.nanoseconds += int(seconds * 1e9) * count


class Statistics:
    """What Triton's ModelStatistics call tells of a version; survives its variants."""

    def __init__(self) -> None:
        self.success = Duration()
        self.fail = Duration()
        self.queue = Duration()
        self.compute = Duration()
        self.rows = 0
        self.last_unix_ms = 0
        self.by_rows: dict[int, Duration] = {}


class Metrics:
    """All families, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self.request_duration = Histogram(
            "hone_request_duration_seconds",
            "From a request to its encoded answer, of requests that were answered.",
            _OF_VARIANT,
            buckets=_SECONDS,
            registry=registry,
        )
        self.queue_duration = Histogram(
            "hone_queue_duration_seconds",
            "Waiting for a lane.",
            _OF_VARIANT,
            buckets=_SECONDS,
            registry=registry,
        )
        self.compute_duration = Histogram(
            "hone_compute_duration_seconds",
            "One run of the model.",
            _OF_VARIANT,
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch_size = Histogram(
            "hone_batch_size",
            "Rows in one run of the model.",
            _OF_VARIANT,
            buckets=_ROWS,
            registry=registry,
        )
        self.requests = Counter(
            "hone_requests_total",
            "Inference requests answered, by gRPC status code.",
            (*_OF_VARIANT, "code"),
            registry=registry,
        )
        self.rejected = Counter(
            "hone_rejected_total",
            "Inference requests refused before they ran.",
            ("model", "version", "reason"),
            registry=registry,
        )
        self.in_flight = Gauge(
            "hone_requests_in_flight",
            "Inference requests accepted and not yet answered.",
            ("model", "version"),
            registry=registry,
        )
        self.queue_depth = Gauge(
            "hone_queue_depth", "Requests waiting for a lane.", _OF_VARIANT, registry=registry
        )
        self.session_memory = Gauge(
            "hone_session_memory_bytes",
            "What the process grew by when the session was opened and warmed.",
            (*_OF_VARIANT, "kind"),
            registry=registry,
        )
        self.variant_info = Gauge(
            "hone_variant_info",
            "1 for each open variant; active says whether it answers by default.",
            (*_OF_VARIANT, "active"),
            registry=registry,
        )
        self.swaps = Counter(
            "hone_swaps_total",
            "Changes of a route, by result.",
            ("model", "version", "result"),
            registry=registry,
        )
        self.models_unloaded = Counter(
            "hone_models_unloaded_total",
            "Models that were unloaded until a request asks for them, by reason.",
            ("model", "reason"),
            registry=registry,
        )
        self.jobs = Gauge("hone_jobs", "Jobs by state.", ("state",), registry=registry)
        self.job_duration = Histogram(
            "hone_job_duration_seconds",
            "From submission to the end of a job.",
            ("state",),
            buckets=_JOB_SECONDS,
            registry=registry,
        )
        self.cpu_budget = Gauge(
            "hone_cpu_budget", "Processors that the server hands out.", registry=registry
        )
        self.build_info = Gauge(
            "hone_build_info", "1.", ("version", "onnxruntime", "python"), registry=registry
        )
        self._statistics: dict[tuple[str, int], Statistics] = {}

    def statistics(self, model: str, version: int) -> Statistics:
        """The running totals of one version."""
        return self._statistics.setdefault((model, version), Statistics())

    def of_variant(self, model: str, version: int, variant: str) -> VariantMetrics:
        """The hot path's view of one open variant."""
        return VariantMetrics(self, model, version, variant)

    def expect_version(self, model: str, version: int) -> None:
        """Show a version's rare counters at zero: a rate cannot see one that starts at 1."""
        for result in SWAP_RESULTS:
            self.swaps.labels(model, str(version), result)
        for reason in REJECTIONS:
            self.rejected.labels(model, str(version), reason)

    def rejection(self, model: str, version: int, reason: str) -> None:
        """Count a request that was refused before it ran."""
        self.rejected.labels(model, str(version), reason).inc()

    def show_variant(
        self, model: str, version: int, variant: str, *, active: bool, memory: ResidentMemory
    ) -> None:
        """Say that a variant is open, whether it is routed to, and what it holds."""
        self.hide_variant(model, version, variant)
        labels = (model, str(version), variant)
        self.variant_info.labels(*labels, "true" if active else "false").set(1)
        self.session_memory.labels(*labels, "anonymous").set(memory.anonymous_bytes)
        self.session_memory.labels(*labels, "file").set(memory.file_bytes)

    def hide_variant(self, model: str, version: int, variant: str) -> None:
        """Take a variant that is no longer open out of the gauges; its counters stay."""
        labels = (model, str(version), variant)
        for active in ("true", "false"):
            self.variant_info.remove(*labels, active)
        for kind in ("anonymous", "file"):
            self.session_memory.remove(*labels, kind)

    def forget_variant(self, model: str, version: int, variant: str) -> None:
        """Drop every series of a variant that was deleted, so that labels stay bounded."""
        labels = {"model": model, "version": str(version), "variant": variant}
        for family in (
            self.request_duration,
            self.queue_duration,
            self.compute_duration,
            self.batch_size,
            self.queue_depth,
        ):
            family.remove(*labels.values())
        self.requests.remove_by_labels(labels)
        self.hide_variant(model, version, variant)


class VariantMetrics:
    """Metrics of one open variant; every method is a handful of additions."""

    def __init__(self, metrics: Metrics, model: str, version: int, variant: str) -> None:
        labels = (model, str(version), variant)
        self._metrics = metrics
        self._model, self._version = model, version
        self._statistics = metrics.statistics(model, version)
        self._request_duration = metrics.request_duration.labels(*labels)
        self._queue_duration = metrics.queue_duration.labels(*labels)
        self._compute_duration = metrics.compute_duration.labels(*labels)
        self._batch_size = metrics.batch_size.labels(*labels)
        self._queue_depth = metrics.queue_depth.labels(*labels)
        self._requests = metrics.requests
        self._labels = labels
        self._ok = metrics.requests.labels(*labels, "OK")

    def ran(self, rows: int, queued_s: Sequence[float], compute_s: float) -> None:
        """One run of the model is over.

        Args:
            rows: Rows in the run.
            queued_s: How long each of its requests had waited.
            compute_s: How long it took.
        """
        self._batch_size.observe(rows)
        self._compute_duration.observe(compute_s)
        statistics = self._statistics
        for waited in queued_s:
            self._queue_duration.observe(waited)
            statistics.queue.add(waited)
        statistics.compute.add(compute_s, len(queued_s))
        statistics.rows += rows
        size = rows if rows <= _EXACT_ROWS else 1 << (rows.bit_length() - 1)
        by_rows = statistics.by_rows.get(size)
        if by_rows is None:
            by_rows = statistics.by_rows[size] = Duration()
        by_rows.add(compute_s)

    def answered(self, code: str, seconds: float) -> None:
        """A request got its answer or its error."""
        statistics = self._statistics
        statistics.last_unix_ms = int(time.time() * 1000)
        if code == "OK":
            self._ok.inc()
            self._request_duration.observe(seconds)
            statistics.success.add(seconds)
        else:
            self._requests.labels(*self._labels, code).inc()
            statistics.fail.add(seconds)

    def refused(self, reason: str) -> None:
        """A request was refused or dropped before it ran."""
        self._metrics.rejection(self._model, self._version, reason)

    def queue_changed(self, waiting: int) -> None:
        """So many requests wait now."""
        self._queue_depth.set(waiting)


class MetricsEndpoint:
    """Serves the registry over HTTP on a thread of its own."""

    def __init__(self, metrics: Metrics, host: str, port: int) -> None:
        """Listen on `host`:`port`.

        Raises:
            OSError: The port is taken.
        """
        server, thread = start_http_server(port, addr=host, registry=metrics.registry)
        self._server: WSGIServer = server
        self._thread = thread

    @property
    def port(self) -> int:
        """The port listened on."""
        return self._server.server_port

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
