"""The metrics as a real server gives them to a real scrape."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from server.client import Client
from tests.support import models
from tests.support.calls import floats, linear_request, refusal
from tests.support.servers import Server, running

TRITON_COUNTERS = (
    "nv_inference_request_success",
    "nv_inference_count",
    "nv_inference_exec_count",
    "nv_inference_request_duration_us",
    "nv_inference_queue_duration_us",
    "nv_inference_compute_input_duration_us",
    "nv_inference_compute_infer_duration_us",
    "nv_inference_compute_output_duration_us",
    "nv_cache_num_hits_per_model",
    "nv_cache_num_misses_per_model",
    "nv_cache_hit_duration_per_model",
    "nv_cache_miss_duration_per_model",
)
TRITON_GAUGES = ("nv_inference_pending_request_count", "nv_model_load_duration_secs")
TRITON_MACHINE = ("nv_cpu_utilization", "nv_cpu_memory_total_bytes", "nv_cpu_memory_used_bytes")


def page_of(server: Server, accept: str = "text/plain") -> str:
    request = urllib.request.Request(server.metrics, headers={"Accept": accept})
    with urllib.request.urlopen(request) as page:
        return str(page.read().decode())


def samples(page: str) -> dict[str, float]:
    """Lines of a page: name and labels → value."""
    lines = (line.rpartition(" ") for line in page.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


async def use(server: Server) -> None:
    async with Client(server.public) as client:
        for rows in (1, 3):
            await client.infer("linear", {"x": floats(rows, 4)})
    wrong = linear_request()
    wrong.inputs[0].name = "nope"
    code, _ = await refusal(server.public, wrong)
    assert code == "INVALID_ARGUMENT"


async def test_triton_names_are_exact_and_count_what_was_asked(tmp_path: Path) -> None:
    models.linear(tmp_path / "models/linear/1/model.onnx")
    with running(tmp_path / "models", tmp_path / "state", "--triton-metrics") as server:
        await use(server)
        page = await asyncio.to_thread(page_of, server)
        later = samples(await asyncio.to_thread(page_of, server))
    found = samples(page)
    of_model = '{model="linear",version="1"}'
    for name in (*TRITON_COUNTERS, *TRITON_GAUGES):
        assert name + of_model in found
        assert f"# HELP {name} " in page
    for name in TRITON_MACHINE:
        assert name in found
    assert "nv_inference_request_success_total" not in page
    assert found["nv_inference_request_success" + of_model] == 2
    assert found["nv_inference_count" + of_model] == 4
    assert found["nv_inference_exec_count" + of_model] == 2
    assert found["nv_inference_request_duration_us" + of_model] > 0
    assert found["nv_inference_compute_infer_duration_us" + of_model] > 0
    assert found["nv_model_load_duration_secs" + of_model] > 0
    failure = 'nv_inference_request_failure{model="linear",reason="%s",version="1"}'
    reasons = ("REJECTED", "CANCELED", "BACKEND", "OTHER")
    assert [found[failure % reason] for reason in reasons] == [0, 0, 0, 1]
    assert 0 < found["nv_cpu_memory_used_bytes"] < found["nv_cpu_memory_total_bytes"]
    assert 0 <= later["nv_cpu_utilization"] <= 1


async def test_triton_names_are_not_told_unasked(tmp_path: Path) -> None:
    models.linear(tmp_path / "models/linear/1/model.onnx")
    with running(tmp_path / "models", tmp_path / "state") as server:
        assert "nv_" not in await asyncio.to_thread(page_of, server)


async def test_both_text_formats_are_well_formed(tmp_path: Path) -> None:
    models.linear(tmp_path / "models/linear/1/model.onnx")
    with running(tmp_path / "models", tmp_path / "state", "--triton-metrics") as server:
        await use(server)
        plain = await asyncio.to_thread(page_of, server)
        openmetrics = await asyncio.to_thread(page_of, server, "application/openmetrics-text")
    plain_types = {family.name: family.type for family in parse_text(plain)}
    families = {family.name: family for family in parse_openmetrics(openmetrics)}  # type: ignore[no-untyped-call]
    assert families["hone_requests"].type == plain_types["hone_requests"] == "counter"
    assert families["hone_request_duration_seconds"].type == "histogram"
    assert families["nv_inference_count"].type == "unknown"
    for family in families.values():
        if family.type == "histogram":
            ends = [one.value for one in family.samples if one.labels.get("le") == "+Inf"]
            counts = [one.value for one in family.samples if one.name.endswith("_count")]
            assert ends == counts


async def test_promtool_complains_only_of_names_that_are_tritons(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("PROMETHEUS NOT TESTED: install Debian's package `prometheus`")
    models.linear(tmp_path / "models/linear/1/model.onnx")
    with running(tmp_path / "models", tmp_path / "state", "--triton-metrics") as server:
        await use(server)
        page = await asyncio.to_thread(page_of, server)
    done = subprocess.run(
        [promtool, "check", "metrics"], input=page, capture_output=True, text=True, check=False
    )
    complaints = (done.stdout + done.stderr).splitlines()
    of_triton = re.compile(r'nv_\w+_(us|secs) .*abbreviated units|nv_\w+_count .*"_count" suffix')
    assert done.returncode in (0, 3), complaints
    assert not [line for line in complaints if not of_triton.match(line)]
