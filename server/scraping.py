"""Plain totals as Prometheus families, made anew for each scrape. Runs on the scrape's thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from server.histograms import Histogram
from server.totals import VariantMetrics, VersionMetrics

OF_VERSION: Final = ("model", "version")
OF_VARIANT: Final = (*OF_VERSION, "variant")

_HISTOGRAMS: Final[tuple[tuple[str, str, Callable[[VariantMetrics], Histogram]], ...]] = (
    (
        "hone_request_duration_seconds",
        "From a request to its encoded answer, of requests that were answered.",
        lambda metrics: metrics.request_seconds,
    ),
    (
        "hone_queue_duration_seconds",
        "Waiting for a lane.",
        lambda metrics: metrics.queue_seconds,
    ),
    (
        "hone_compute_duration_seconds",
        "One run of the model.",
        lambda metrics: metrics.compute_seconds,
    ),
    (
        "hone_batch_size",
        "Rows in one run of the model.",
        lambda metrics: metrics.batch_rows,
    ),
)


class TotalsCollector(Collector):
    """The families of requests and runs."""

    def __init__(self, versions: Callable[[], Iterable[VersionMetrics]]) -> None:
        """Tell of what `versions` returns at each scrape."""
        self._versions = versions

    def describe(self) -> Iterable[Metric]:
        """The families without their samples."""
        return _families(())

    def collect(self) -> Iterable[Metric]:
        """The families as they stand now."""
        return _families(tuple(self._versions()))


def _families(versions: tuple[VersionMetrics, ...]) -> Iterator[Metric]:
    variants = [
        ((version.model, str(version.version), metrics.variant), metrics)
        for version in versions
        for metrics in version.variants
    ]
    for name, text, pick in _HISTOGRAMS:
        yield _histogram(name, text, [(labels, one, pick(one)) for labels, one in variants])
    yield _requests(variants)
    yield from _cache(variants)
    yield _rejected(versions)
    in_flight = GaugeMetricFamily(
        "hone_requests_in_flight",
        "Inference requests accepted and not yet answered.",
        labels=OF_VERSION,
    )
    for version in versions:
        if version.model:
            in_flight.add_metric((version.model, str(version.version)), version.in_flight)
    yield in_flight
    queue = GaugeMetricFamily("hone_queue_depth", "Requests waiting for a lane.", labels=OF_VARIANT)
    for labels, metrics in variants:
        queue.add_metric(labels, metrics.queue_depth)
    yield queue


_Labelled = list[tuple[tuple[str, str, str], VariantMetrics]]


def _histogram(
    name: str, text: str, variants: list[tuple[tuple[str, str, str], VariantMetrics, Histogram]]
) -> Metric:
    family = HistogramMetricFamily(name, text, labels=OF_VARIANT)
    for labels, metrics, histogram in variants:
        read = histogram.read()
        names = (*map(floatToGoString, histogram.bounds), "+Inf")
        family.add_metric(labels, list(zip(names, read.cumulative, strict=True)), read.total)
        named = dict(zip(OF_VARIANT, labels, strict=True))
        family.add_sample(f"{name}_created", named, metrics.created_unix_s)
    return family


def _requests(variants: _Labelled) -> Metric:
    family = CounterMetricFamily(
        "hone_requests_total",
        "Inference requests answered, by gRPC status code.",
        labels=(*OF_VARIANT, "code"),
    )
    for labels, metrics in variants:
        counts = {"OK": metrics.request_seconds.read().count}
        counts |= {code: failed.count for code, failed in dict(metrics.failed).items()}
        for code, count in counts.items():
            family.add_metric((*labels, code), count, created=metrics.created_unix_s)
    return family


def _cache(variants: _Labelled) -> Iterator[Metric]:
    """Nothing but names where no variant keeps answers."""
    hits = CounterMetricFamily(
        "hone_cache_hits_total",
        "Requests whose answer was in the cache.",
        labels=OF_VARIANT,
    )
    misses = CounterMetricFamily(
        "hone_cache_misses_total",
        "Requests looked for in the cache in vain.",
        labels=OF_VARIANT,
    )
    for labels, metrics in variants:
        totals = metrics.cache
        if totals is not None:
            hits.add_metric(labels, totals.hits.count, created=metrics.created_unix_s)
            misses.add_metric(labels, totals.misses.count, created=metrics.created_unix_s)
    yield hits
    yield misses


def _rejected(versions: Iterable[VersionMetrics]) -> Metric:
    family = CounterMetricFamily(
        "hone_rejected_total",
        "Inference requests refused before they ran.",
        labels=(*OF_VERSION, "reason"),
    )
    for version in versions:
        for reason, count in dict(version.rejected).items():
            labels = (version.model, str(version.version), reason)
            family.add_metric(labels, count, created=version.created_unix_s)
    return family
