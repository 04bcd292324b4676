"""What a caller is told when a model has too much to do."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from server.client import CallFailed, Client, inference_request
from tests.support import models
from tests.support.calls import floats, refusal
from tests.support.servers import running

SLOW = floats(1, 512)


@pytest.mark.parametrize(
    ("flags", "code"),
    [((), grpc.StatusCode.RESOURCE_EXHAUSTED), (("--triton-codes",), grpc.StatusCode.UNAVAILABLE)],
)
async def test_a_full_queue_is_said_in_our_words_or_in_tritons(
    tmp_path: Path, flags: tuple[str, ...], code: grpc.StatusCode
) -> None:
    models.slow(tmp_path / "models/slow/1/model.onnx", rounds=40_000)
    bounds = ("--cpus", "1", "--max-queue-items", "1")
    with running(tmp_path / "models", tmp_path / "state", *bounds, *flags) as server:
        async with Client(server.public) as client:
            asked = [asyncio.create_task(client.infer("slow", {"x": SLOW}, timeout=60))]
            await asyncio.sleep(0.2)
            asked.append(asyncio.create_task(client.infer("slow", {"x": SLOW}, timeout=60)))
            await asyncio.sleep(0.1)
            with pytest.raises(CallFailed, match="Exceeds maximum queue size") as full:
                await client.infer("slow", {"x": SLOW}, timeout=60)
            assert full.value.code is code
            await asyncio.gather(*asked)


async def test_a_priority_that_config_pbtxt_does_not_have_is_refused(tmp_path: Path) -> None:
    models.linear(tmp_path / "models/linear/1/model.onnx")
    (tmp_path / "models/linear/config.pbtxt").write_text(
        "max_batch_size: 8\ndynamic_batching { priority_levels: 2 default_priority_level: 1 }\n"
    )
    with running(tmp_path / "models", tmp_path / "state") as server:
        request = inference_request("linear", {"x": floats(1, 4)})
        request.parameters["priority"].uint64_param = 3
        code, text = await refusal(server.public, request)
        assert (code, "from 1 to 2" in text) == ("INVALID_ARGUMENT", True), text
        request.parameters["priority"].uint64_param = 2
        async with Client(server.public) as client:
            await client.infer("linear", {"x": floats(1, 4)})
