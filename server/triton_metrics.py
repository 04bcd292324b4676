"""The same totals under Triton's names, for dashboards and tools that know only those.

Triton's counters have no `_total`, which the client library adds to every counter: they are told
as untyped, which queries treat the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric, UnknownMetricFamily
from prometheus_client.registry import Collector

from server.totals import Statistics, VersionMetrics

_LABELS: Final = ("model", "version")
_REASONS: Final = {
    "RESOURCE_EXHAUSTED": "REJECTED",
    "UNAVAILABLE": "REJECTED",
    "DEADLINE_EXCEEDED": "REJECTED",
    "CANCELLED": "CANCELED",
    "INTERNAL": "BACKEND",
}
_OTHER: Final = "OTHER"
_EVERY_REASON: Final = ("REJECTED", "CANCELED", "BACKEND", _OTHER)

_COUNTERS: Final[tuple[tuple[str, str, Callable[[Statistics], float]], ...]] = (
    (
        "nv_inference_request_success",
        "Requests answered.",
        lambda totals: totals.success.count,
    ),
    (
        "nv_inference_count",
        "Rows computed.",
        lambda totals: totals.rows,
    ),
    (
        "nv_inference_exec_count",
        "Runs of the model.",
        lambda totals: totals.runs,
    ),
    (
        "nv_inference_request_duration_us",
        "Microseconds from requests to their encoded answers.",
        lambda totals: totals.success.nanoseconds // 1000,
    ),
    (
        "nv_inference_queue_duration_us",
        "Microseconds that requests waited for a lane.",
        lambda totals: totals.queue.nanoseconds // 1000,
    ),
    (
        "nv_inference_compute_input_duration_us",
        "Always 0: joining inputs is not timed apart from the run.",
        lambda totals: 0,
    ),
    (
        "nv_inference_compute_infer_duration_us",
        "Microseconds of runs, counted once for each request in them.",
        lambda totals: totals.compute.nanoseconds // 1000,
    ),
    (
        "nv_inference_compute_output_duration_us",
        "Always 0: splitting outputs is not timed apart from the run.",
        lambda totals: 0,
    ),
    (
        "nv_cache_num_hits_per_model",
        "Requests whose answer was in the cache.",
        lambda totals: totals.cache.hits.count,
    ),
    (
        "nv_cache_num_misses_per_model",
        "Requests looked for in the cache in vain.",
        lambda totals: totals.cache.misses.count,
    ),
    (
        "nv_cache_hit_duration_per_model",
        "Microseconds of looks into the cache that found an answer.",
        lambda totals: totals.cache.hits.nanoseconds // 1000,
    ),
    (
        "nv_cache_miss_duration_per_model",
        "Microseconds of looks into the cache that found none.",
        lambda totals: totals.cache.misses.nanoseconds // 1000,
    ),
)


class TritonCollector(Collector):
    """The `nv_*` families."""

    def __init__(
        self, versions: Callable[[], Iterable[VersionMetrics]], proc: Path = Path("/proc")
    ) -> None:
        """Tell of what `versions` returns at each scrape, and of the machine by `proc`."""
        self._versions = versions
        self._proc = proc
        self._processor_times = (0, 0)

    def describe(self) -> Iterable[Metric]:
        """The families without their samples."""
        return (*_models(()), *self._machine())

    def collect(self) -> Iterable[Metric]:
        """The families as they stand now."""
        return (*_models(tuple(self._versions())), *self._machine())

    def _machine(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "nv_cpu_utilization",
            "Share of the machine's processors in use since the last look, 0 to 1.",
            value=self._utilization(),
        )
        total, available = _memory_bytes(self._proc / "meminfo")
        yield GaugeMetricFamily("nv_cpu_memory_total_bytes", "Memory of the machine.", value=total)
        yield GaugeMetricFamily(
            "nv_cpu_memory_used_bytes", "Memory of the machine in use.", value=total - available
        )

    def _utilization(self) -> float:
        busy_before, total_before = self._processor_times
        busy, total = self._processor_times = _processor_times(self._proc / "stat")
        passed = total - total_before
        return min(1.0, max(0.0, (busy - busy_before) / passed)) if passed > 0 else 0.0


def _models(versions: tuple[VersionMetrics, ...]) -> Iterator[Metric]:
    named = [
        ((version.model, str(version.version)), version, version.statistics())
        for version in versions
    ]
    for name, text, pick in _COUNTERS:
        family = UnknownMetricFamily(name, text, labels=_LABELS)
        for labels, _, totals in named:
            family.add_metric(labels, pick(totals))
        yield family
    failures = UnknownMetricFamily(
        "nv_inference_request_failure", "Requests not answered.", labels=(*_LABELS, "reason")
    )
    for labels, _, totals in named:
        for reason, count in _failures(totals).items():
            failures.add_metric((*labels, reason), count)
    yield failures
    pending = GaugeMetricFamily(
        "nv_inference_pending_request_count", "Requests waiting for a lane.", labels=_LABELS
    )
    loading = GaugeMetricFamily(
        "nv_model_load_duration_secs", "What the last load took, in seconds.", labels=_LABELS
    )
    for labels, version, _ in named:
        pending.add_metric(labels, sum(variant.queue_depth for variant in version.variants))
        loading.add_metric(labels, version.load_seconds)
    yield pending
    yield loading


def _failures(totals: Statistics) -> dict[str, int]:
    """Failed requests by Triton's reason; every reason is there."""
    counts = dict.fromkeys(_EVERY_REASON, 0)
    for code, failed in totals.failed.items():
        counts[_REASONS.get(code, _OTHER)] += failed.count
    return counts


def _processor_times(file: Path) -> tuple[int, int]:
    """Busy and all time of all processors since the machine started, in clock ticks."""
    first = file.read_text(encoding="ascii").partition("\n")[0]
    user, nice, system, idle, waiting, *rest = map(int, first.split()[1:9])
    busy = user + nice + system + sum(rest)
    return busy, busy + idle + waiting


def _memory_bytes(file: Path) -> tuple[int, int]:
    """All memory of the machine, and what could be had of it."""
    lines = (line.partition(":") for line in file.read_text(encoding="ascii").splitlines())
    sizes = {name: 1024 * int(value.split()[0]) for name, _, value in lines if name[:3] == "Mem"}
    return sizes["MemTotal"], sizes["MemAvailable"]
