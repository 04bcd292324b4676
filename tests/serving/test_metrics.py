"""What is counted in plain numbers and how it is told to Prometheus."""

from __future__ import annotations

import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Histogram as Reference

from optimizers.contract.memory import ResidentMemory
from server.histograms import SECONDS, Histogram
from server.metrics import Metrics

LABELS = 'model="net",variant="original",version="1"'


def page_of(metrics: Metrics) -> list[str]:
    return generate_latest(metrics.registry).decode().splitlines()


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.floats(0, 20) | st.sampled_from(SECONDS), max_size=1200), st.integers(1, 40))
def test_a_histogram_counts_as_prometheus_client_does(values: list[float], together: int) -> None:
    registry = CollectorRegistry()
    reference = Reference("seconds", "Text.", buckets=SECONDS, registry=registry)
    histogram = Histogram(SECONDS)
    for start in range(0, len(values), together):
        part = values[start : start + together]
        if len(part) == 1:
            histogram.observe(part[0])
        else:
            histogram.observe_all(part)
    for value in values:
        reference.observe(value)
    expected = {
        sample.labels.get("le", sample.name): sample.value
        for family in registry.collect()
        for sample in family.samples
    }
    read = histogram.read()
    assert list(read.cumulative) == [expected[le] for le in (*map(str, SECONDS), "+Inf")]
    assert read.count == expected["seconds_count"]
    assert read.total == pytest.approx(expected["seconds_sum"])


def test_a_reader_on_another_thread_meets_every_value_exactly_once() -> None:
    histogram = Histogram((1.0, 2.0))
    done = threading.Event()
    seen: list[tuple[int, float]] = []

    def watch() -> None:
        while not done.is_set():
            read = histogram.read()
            seen.append((read.count, read.total))

    reader = threading.Thread(target=watch)
    reader.start()
    rounds = 0
    while rounds < 40_000 or len(seen) < 10:  # on a busy machine the reader comes seldom
        histogram.observe_all((0.5, 1.5, 2.5, 3.5))
        rounds += 1
    done.set()
    reader.join()
    assert histogram.read().cumulative == (rounds, 2 * rounds, 4 * rounds)
    assert all(total == 2 * count and count % 4 == 0 for count, total in seen)
    assert seen == sorted(seen)


def test_a_run_and_its_answers_are_told() -> None:
    metrics = Metrics()
    metrics.expect_version("net", 1)
    variant = metrics.of_variant("net", 1, "original")
    variant.ran(3, [0.002, 0.02], 0.2)
    variant.succeeded([0.21, 0.23])
    variant.answered("OK", 0.3)
    variant.answered("INTERNAL", 0.1)
    variant.refused("deadline")
    variant.queue_changed(7)
    variant.version.in_flight += 2
    metrics.unaddressed("unknown_model")
    page = page_of(metrics)
    for line in (
        f'hone_request_duration_seconds_bucket{{le="0.25",{LABELS}}} 2.0',
        f"hone_request_duration_seconds_count{{{LABELS}}} 3.0",
        f'hone_queue_duration_seconds_bucket{{le="0.01",{LABELS}}} 1.0',
        f"hone_compute_duration_seconds_sum{{{LABELS}}} 0.2",
        f'hone_batch_size_bucket{{le="2.0",{LABELS}}} 0.0',
        f'hone_batch_size_bucket{{le="4.0",{LABELS}}} 1.0',
        f'hone_requests_total{{code="OK",{LABELS}}} 3.0',
        f'hone_requests_total{{code="INTERNAL",{LABELS}}} 1.0',
        f"hone_queue_depth{{{LABELS}}} 7.0",
        'hone_requests_in_flight{model="net",version="1"} 2.0',
        'hone_rejected_total{model="net",reason="deadline",version="1"} 1.0',
        'hone_rejected_total{model="net",reason="cancelled",version="1"} 0.0',
        'hone_rejected_total{model="",reason="unknown_model",version="0"} 1.0',
        "# TYPE hone_requests_total counter",
        "# TYPE hone_batch_size histogram",
        "# TYPE hone_queue_depth gauge",
        "# HELP hone_queue_duration_seconds Waiting for a lane.",
    ):
        assert line in page
    totals = metrics.statistics("net", 1)
    assert (totals.rows, totals.runs, totals.success.count, totals.fail.count) == (3, 1, 3, 1)
    assert totals.compute.count == 2
    assert totals.compute.nanoseconds == pytest.approx(4e8)
    assert totals.by_rows[3].count == 1


def test_a_reopened_variant_counts_on_and_a_deleted_one_only_in_its_versions_totals() -> None:
    metrics = Metrics()
    memory = ResidentMemory(anonymous_bytes=1, file_bytes=2)
    for _ in range(2):
        variant = metrics.of_variant("net", 1, "v-1")
        metrics.show_variant("net", 1, "v-1", active=True, memory=memory, lanes=1, threads=1)
        variant.ran(1, [0.1], 0.1)
        variant.succeeded([0.2])
        variant.answered("CANCELLED", 0.1)
        metrics.hide_variant("net", 1, "v-1")
    metrics.of_variant("net", 1, "original").succeeded([0.2])
    counted = 'hone_requests_total{code="OK",model="net",variant="v-1",version="1"} 2.0'
    assert counted in page_of(metrics)
    before = metrics.statistics("net", 1)
    metrics.forget_variant("net", 1, "v-1")
    assert not [line for line in page_of(metrics) if "v-1" in line]
    after = metrics.statistics("net", 1)
    assert (after.success.count, after.rows) == (before.success.count, before.rows) == (3, 2)
    assert after.failed["CANCELLED"].count == before.failed["CANCELLED"].count == 2
    assert after.queue.nanoseconds == before.queue.nanoseconds


def test_names_asked_for_select_families() -> None:
    metrics = Metrics()
    metrics.of_variant("net", 1, "original")
    chosen = metrics.registry.restricted_registry(["hone_queue_depth", "hone_requests_total"])
    names = {family.name for family in chosen.collect()}
    assert names == {"hone_queue_depth", "hone_requests"}
