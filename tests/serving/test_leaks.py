"""What was answered, given up or unloaded leaves no memory behind; a planted leak is found."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from optimizers.contract.memory import mapped_memory
from server.client import Client, inference_request
from server.pb import open_inference_pb2 as inference
from tests.support import models
from tests.support.calls import floats
from tests.support.servers import running

SIZES = (4096, 256, 8)
ROWS = 8
"""Of a request: 128 KiB."""
REQUESTS = 1500
AT_ONCE = 24
CYCLES = 25
MOST_GROWTH_BYTES = 30 << 20
"""What the allocator holds back differs by some 15 MiB from look to look; what is planted is 80."""
LEAKY = (sys.executable, "-m", "tests.support.leaky_server")


@pytest.mark.parametrize("under", [(), LEAKY], ids=["as it is", "with a planted leak"])
async def test_requests_and_loads_leave_nothing_and_a_planted_leak_is_seen(
    tmp_path: Path, under: Sequence[str]
) -> None:
    models.perceptron(tmp_path / "models/net/1/model.onnx", sizes=SIZES)
    models.perceptron(tmp_path / "models/other/1/model.onnx", sizes=SIZES, seed=1)
    with running(tmp_path / "models", tmp_path / "state", "--cpus", "2", under=under) as server:
        async with Client(server.public) as caller, Client(server.admin) as operator:
            await ask(caller, REQUESTS)
            await reload(operator, CYCLES // 3)
            settled = await memory(server.process.pid)
            await ask(caller, REQUESTS)
            await reload(operator, 1)  # after an unload the allocator gives back what is free
            asked = await memory(server.process.pid)
            await reload(operator, CYCLES)
            reloaded = await memory(server.process.pid)
    growths = asked - settled, reloaded - asked
    if under:
        assert min(growths) > 2 * MOST_GROWTH_BYTES, f"what leaks is not seen: {growths}"
    else:
        assert max(growths) < MOST_GROWTH_BYTES, f"{settled} bytes grew by {growths}"


async def ask(client: Client, times: int) -> None:
    """Ask so often; every third caller goes away before or while its answer is made."""
    request = inference_request("net", {"x": floats(ROWS, SIZES[0])})
    random = np.random.default_rng(0)
    turns = iter(range(times))
    answered = 0

    async def caller() -> None:
        nonlocal answered
        for turn in turns:
            call = asyncio.create_task(
                client.call("ModelInfer", request, inference.ModelInferResponse, timeout=30)
            )
            if turn % 3 == 0:
                await asyncio.sleep(random.random() * 0.003)
                call.cancel()
            done, _ = await asyncio.wait([call])
            if turn % 3:
                await next(iter(done))
                answered += 1

    await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
    assert answered == times - len(range(0, times, 3))


async def reload(client: Client, times: int) -> None:
    """Load and unload the other model so often."""
    load = inference.RepositoryModelLoadRequest(model_name="other")
    unload = inference.RepositoryModelUnloadRequest(model_name="other")
    for _ in range(times):
        await client.call("RepositoryModelLoad", load, inference.RepositoryModelLoadResponse)
        await client.call("RepositoryModelUnload", unload, inference.RepositoryModelUnloadResponse)


async def memory(process: int) -> int:
    """Resident bytes once it has come to rest: the least of some looks."""
    looks = []
    for _ in range(5):
        await asyncio.sleep(0.1)
        looks.append(mapped_memory(process).total_bytes)
    return min(looks)
