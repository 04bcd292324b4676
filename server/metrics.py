"""The one owner of every metric. Labels come from closed sets: no caller's text becomes one.

What happens for every request and run is counted in plain numbers (`totals`) and becomes families
when it is scraped (`scraping`); what is rare is counted here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from optimizers.contract.memory import ResidentMemory
from server.scraping import OF_VARIANT, TotalsCollector
from server.totals import Statistics, VariantMetrics, VersionMetrics
from server.triton_metrics import TritonCollector

_JOB_SECONDS: Final = (1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600, 4 * 3600)
SWAP_RESULTS: Final = ("promoted", "rolled_back", "refused", "failed", "fell_back")


class Metrics:
    """All families, in a registry of their own."""

    def __init__(self, *, triton_names: bool = False) -> None:
        """Start at zero; with `triton_names`, the same is told under those too."""
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self._versions: dict[tuple[str, int], VersionMetrics] = {}
        self._unaddressed = VersionMetrics("", 0)
        registry.register(TotalsCollector(self._all_versions))
        if triton_names:
            registry.register(TritonCollector(self._versions_served))
        self.session_memory = Gauge(
            "hone_session_memory_bytes",
            "What the process grew by when the session was opened and warmed.",
            (*OF_VARIANT, "kind"),
            registry=registry,
        )
        self.variant_info = Gauge(
            "hone_variant_info",
            "1 for each open variant; active says whether it answers by default.",
            (*OF_VARIANT, "active"),
            registry=registry,
        )
        self.session_lanes = Gauge(
            "hone_session_lanes", "Runs that may go on at once.", OF_VARIANT, registry=registry
        )
        self.session_threads = Gauge(
            "hone_session_threads", "Threads inside one run.", OF_VARIANT, registry=registry
        )
        self.session_wide_threads = Gauge(
            "hone_session_wide_threads",
            "Threads inside the run of a caller who is alone; 0: it gets no more than others.",
            OF_VARIANT,
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
        self.jobs_paused = Gauge(
            "hone_jobs_paused",
            "Jobs whose work is stopped because live requests are late.",
            registry=registry,
        )
        self.job_paused_seconds = Counter(
            "hone_job_paused_seconds_total",
            "How long the work on jobs was stopped because live requests were late, all together.",
            registry=registry,
        )
        self.cpu_budget = Gauge(
            "hone_cpu_budget", "Processors that the server hands out.", registry=registry
        )
        self.build_info = Gauge(
            "hone_build_info", "1.", ("version", "onnxruntime", "python"), registry=registry
        )
        self.provider_info = Gauge(
            "hone_provider_info",
            "1: where models compute that do not say otherwise.",
            ("provider", "device"),
            registry=registry,
        )

    def of_version(self, model: str, version: int) -> VersionMetrics:
        """What is counted for a version; survives its reloads."""
        key = (model, version)
        metrics = self._versions.get(key)
        if metrics is None:
            metrics = self._versions[key] = VersionMetrics(model, version)
        return metrics

    def statistics(self, model: str, version: int) -> Statistics:
        """The running totals of one version."""
        return self.of_version(model, version).statistics()

    def of_variant(self, model: str, version: int, variant: str) -> VariantMetrics:
        """The hot path's view of one open variant."""
        return self.of_version(model, version).of_variant(variant)

    def expect_version(self, model: str, version: int) -> None:
        """Show a version's rare counters at zero: a rate cannot see one that starts at 1."""
        self.of_version(model, version)
        for result in SWAP_RESULTS:
            self.swaps.labels(model, str(version), result)

    def loaded(self, model: str, version: int, seconds: float) -> None:
        """A version was loaded, which took `seconds`."""
        self.of_version(model, version).load_seconds = seconds

    def show_cache(self, size_bytes: Callable[[], float]) -> None:
        """Tell how large the cache of answers is; called once."""
        Gauge(
            "hone_cache_bytes",
            "Size of the answers kept for equal requests.",
            registry=self.registry,
        ).set_function(size_bytes)

    def unaddressed(self, reason: str) -> None:
        """Count a request refused because no version answers to what it named."""
        self._unaddressed.refused(reason)

    def show_variant(
        self,
        model: str,
        version: int,
        variant: str,
        *,
        active: bool,
        memory: ResidentMemory,
        lanes: int,
        threads: int,
        wide_threads: int = 0,
    ) -> None:
        """Say that a variant is open, whether it is routed to, and what it holds and uses."""
        self.hide_variant(model, version, variant)
        labels = (model, str(version), variant)
        self.variant_info.labels(*labels, "true" if active else "false").set(1)
        self.session_memory.labels(*labels, "anonymous").set(memory.anonymous_bytes)
        self.session_memory.labels(*labels, "file").set(memory.file_bytes)
        self.session_lanes.labels(*labels).set(lanes)
        self.session_threads.labels(*labels).set(threads)
        self.session_wide_threads.labels(*labels).set(wide_threads)

    def hide_variant(self, model: str, version: int, variant: str) -> None:
        """Take a variant that is no longer open out of the gauges; its counters stay."""
        labels = (model, str(version), variant)
        for active in ("true", "false"):
            self.variant_info.remove(*labels, active)
        for kind in ("anonymous", "file"):
            self.session_memory.remove(*labels, kind)
        for family in (self.session_lanes, self.session_threads, self.session_wide_threads):
            family.remove(*labels)

    def forget_variant(self, model: str, version: int, variant: str) -> None:
        """Drop every series of a variant that was deleted, so that labels stay bounded."""
        self.of_version(model, version).forget_variant(variant)
        self.hide_variant(model, version, variant)

    def _versions_served(self) -> list[VersionMetrics]:
        return list(self._versions.values())

    def _all_versions(self) -> list[VersionMetrics]:
        return [self._unaddressed, *self._versions_served()]
