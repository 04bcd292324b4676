"""Whatever somebody does to his own connections, everybody else is answered at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from server.client import Client, inference_request
from tests.support import models
from tests.support.calls import floats
from tests.support.hostile import ATTACKS, under
from tests.support.servers import Server, running
from tests.support.streams import answers_of, stream

pytestmark = pytest.mark.alone  # answers are waited for one second

ANSWER_SECONDS = 1.0
NO_TEXT = "paths that are no text"


@pytest.fixture(scope="module")
def server(transport: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp(transport)
    models.two_inputs(folder / "models/sums/1/model.onnx")
    with running(folder / "models", folder / "state") as server:
        yield server


async def is_answered(server: Server) -> None:
    """A new client's call and stream are answered, right and soon."""
    inputs = {"a": floats(2, 3, seed=1), "b": floats(2, 3, seed=2)}
    start = time.perf_counter()
    async with Client(server.public) as client:
        answer, _ = await client.infer("sums", inputs, timeout=10)
    assert (answer["sum"] == inputs["a"] + inputs["b"]).all()
    async with stream(server.public, timeout=10) as call:
        await call.write(inference_request("sums", inputs))
        await call.done_writing()
        [streamed] = await answers_of(call)
    assert answer["sum"].tobytes() in streamed.infer_response.raw_output_contents
    assert time.perf_counter() - start < ANSWER_SECONDS


@pytest.mark.parametrize("name", [name for name in ATTACKS if name != NO_TEXT])
async def test_others_are_answered_during_and_after(server: Server, name: str) -> None:
    attack, times, _ = ATTACKS[name]
    with under(attack, server.public, times):
        await is_answered(server)
    await is_answered(server)
    assert server.process.poll() is None
    assert not [line for line in server.log if "panick" in line]


async def test_others_are_answered_after_a_path_that_is_no_text(
    transport: str, tmp_path: Path
) -> None:
    models.two_inputs(tmp_path / "models/sums/1/model.onnx")
    attack, _, _ = ATTACKS[NO_TEXT]
    with running(tmp_path / "models", tmp_path / "state") as server:
        with under(attack, server.public, 1):
            await asyncio.sleep(0.5)
        if transport == "native":
            await is_answered(server)
            return
        # One such call ends the accept loop of grpcio's asyncio server (1.85.3): better no server,
        # which whoever watches over it starts again, than one that answers nobody.
        assert await asyncio.to_thread(server.process.wait, 40) == 1
    assert "accepts no more calls: UnicodeDecodeError" in "".join(server.log)


async def test_a_stop_under_load_loses_no_call(tmp_path: Path) -> None:
    models.slow(tmp_path / "models/slow/1/model.onnx", rounds=2000)
    with running(tmp_path / "models", tmp_path / "state") as server:
        clients = [Client(server.public) for _ in range(5)]
        calls = [
            asyncio.create_task(client.infer("slow", {"x": floats(1, 512)}, timeout=30))
            for client in clients
            for _ in range(10)
        ]
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        before = sum(call.done() for call in calls)
        status = await asyncio.to_thread(server.stop)
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        for client in clients:
            await client.close()
    assert before < len(calls), "nothing was under way when the server had to stop"
    refused = [one for one in outcomes if isinstance(one, BaseException)]
    assert {getattr(one, "code", one) for one in refused} <= {grpc.StatusCode.UNAVAILABLE}, refused
    assert len(refused) < len(calls)
    assert status == 0
