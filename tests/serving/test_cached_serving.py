"""A real server that keeps answers: equal requests run once, and never across variants."""

from __future__ import annotations

import asyncio
import urllib.request
from pathlib import Path

import numpy as np

from server.client import Client
from server.pb import open_inference_pb2 as pb
from tests.support import models
from tests.support.calls import floats, promote
from tests.support.servers import Server, running
from tests.support.variants import make_variant

CACHED = "response_cache { enable: true }"


def sample(server: Server, name: str) -> float:
    with urllib.request.urlopen(server.metrics) as page:
        lines = page.read().decode().splitlines()
    [line] = [one for one in lines if one.startswith(name)]
    return float(line.rpartition(" ")[2])


async def test_equal_requests_run_once_and_a_swap_forgets(tmp_path: Path) -> None:
    original = models.linear(tmp_path / "models/linear/1/model.onnx")
    (tmp_path / "models/linear/config.pbtxt").write_text(CACHED)
    sealed = make_variant(
        tmp_path / "state",
        original,
        "linear",
        lambda path: models.linear(path, seed=1),
        golden_inputs={"x": floats(2, 4)},
    )
    flags = ("--cache-bytes", "1000000", "--triton-metrics")
    with running(tmp_path / "models", tmp_path / "state", *flags) as server:
        async with Client(server.public) as client:
            first, _ = await client.infer("linear", {"x": floats(2, 4)})
            for _ in range(3):
                again, _ = await client.infer("linear", {"x": floats(2, 4)})
                np.testing.assert_array_equal(again["y"], first["y"])
            await client.infer("linear", {"x": floats(2, 4, seed=9)})
            of_original = '{model="linear",variant="original",version="1"}'
            ran = f"hone_compute_duration_seconds_count{of_original}"
            assert await asyncio.to_thread(sample, server, ran) == 2
            hits = f"hone_cache_hits_total{of_original}"
            assert await asyncio.to_thread(sample, server, hits) == 3
            assert await asyncio.to_thread(sample, server, "nv_cache_num_hits_per_model{") == 3
            assert await asyncio.to_thread(sample, server, "hone_cache_bytes") > 0
            statistics = await client.call(
                "ModelStatistics",
                pb.ModelStatisticsRequest(name="linear"),
                pb.ModelStatisticsResponse,
            )
            told = statistics.model_stats[0].inference_stats
            assert (told.success.count, told.cache_hit.count, told.cache_miss.count) == (5, 3, 2)
            assert told.cache_hit.ns > 0
            await promote(server.admin, "linear", sealed.manifest.variant, unverified=True)
            assert await asyncio.to_thread(sample, server, "hone_cache_bytes") == 0
            swapped, _ = await client.infer("linear", {"x": floats(2, 4)})
            assert not np.array_equal(swapped["y"], first["y"])


async def test_nothing_is_kept_for_a_model_that_does_not_ask(tmp_path: Path) -> None:
    models.linear(tmp_path / "models/linear/1/model.onnx")
    with running(tmp_path / "models", tmp_path / "state", "--cache-bytes", "1000000") as server:
        async with Client(server.public) as client:
            for _ in range(3):
                await client.infer("linear", {"x": floats(2, 4)})
        assert await asyncio.to_thread(sample, server, "hone_cache_bytes") == 0


async def test_a_model_that_asks_in_vain_is_served_and_said(tmp_path: Path) -> None:
    models.linear(tmp_path / "models/linear/1/model.onnx")
    (tmp_path / "models/linear/config.pbtxt").write_text(CACHED)
    with running(tmp_path / "models", tmp_path / "state") as server:
        async with Client(server.public) as client:
            for _ in range(2):
                await client.infer("linear", {"x": floats(2, 4)})
        assert server.stop() == 0
    assert [line for line in server.log if "--cache-bytes" in line]
