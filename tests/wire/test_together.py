"""Bursts of requests to small models: each gets its own answer, whatever else came with it."""

from __future__ import annotations

import asyncio
import random
import re
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from server.client import inference_request
from server.pb import open_inference_pb2 as pb
from tests.support import models
from tests.support.servers import Server, running

KNOWN = 100
"""Numbers that `lookup` can look up."""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("models")
    models.identity(folder / "same/1/model.onnx", TensorProto.INT32)
    models.two_inputs(folder / "pair/1/model.onnx")
    models.lookup(folder / "lookup/1/model.onnx", most=KNOWN)
    models.identity(folder / "text/1/model.onnx", TensorProto.STRING)
    models.reduced(folder / "largest/1/model.onnx", "ReduceMax")
    return folder


@pytest.fixture(scope="module")
def server(
    transport: str, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    flags = ("--model-control", "explicit", "--load-model", "*")
    with running(repository, tmp_path_factory.mktemp("state"), *flags) as server:
        yield server
    assert not [line for line in server.log if "ERROR" in line or "Traceback" in line]


@asynccontextmanager
async def method(server: Server, name: str) -> AsyncIterator[Any]:
    """What sends bytes to a method and gives the answer's."""
    async with grpc.aio.insecure_channel(server.public) as channel:
        untyped: Any = channel
        yield untyped.unary_unary(f"/inference.GRPCInferenceService/{name}")


Expected = dict[str, NDArray[Any]] | str
"""The outputs of a request, or the text of its error."""


def asked(number: int, draw: random.Random) -> tuple[pb.ModelInferRequest, Expected]:
    """A request that no other is equal to, and what must come back."""
    rows = draw.choice([1, 1, 1, 2, 5])
    match draw.choice(["same", "pair", "pair", "lookup", "text", "largest", "wrong", "unknown"]):
        case "same":
            x = np.full((rows, 3), number, np.int32)
            return inference_request("same", {"x": x}), {"y": x}
        case "pair":
            width = draw.choice([1, 2, 2, 7])
            a = np.full((rows, width), number, np.float32)
            b = np.full((rows, width), draw.randrange(1000), np.float32)
            wanted = draw.choice([(), ("difference",), ("difference", "sum")])
            values = {"sum": a + b, "difference": a - b}
            request = inference_request("pair", {"a": a, "b": b}, outputs=wanted)
            return request, {name: values[name] for name in wanted or values}
        case "lookup":
            places = np.full(rows, number % (KNOWN + 10), np.int64)
            known = number % (KNOWN + 10) < KNOWN
            request = inference_request("lookup", {"x": places})
            return request, {"y": places**2} if known else "out of data bounds"
        case "text":
            x = np.full((rows, 3), str(number), object)
            return inference_request("text", {"x": x}), {"y": x}
        case "largest":
            x = np.full((rows, 4), -number, np.float32)
            x[:, draw.randrange(4)] = number
            return inference_request("largest", {"x": x}), {"y": x.max(axis=1)}
        case "wrong":
            x = np.full((rows, 4), number, np.int32)
            return inference_request("same", {"x": x}), "unexpected shape"
        case _:
            x = np.full((rows, 3), number, np.int32)
            return inference_request("none", {"x": x}), "unknown model"


@pytest.mark.parametrize("seed", range(3))
async def test_every_request_of_a_burst_gets_its_own_answer(server: Server, seed: int) -> None:
    draw = random.Random(seed)
    async with method(server, "ModelInfer") as say:

        async def ask(number: int) -> None:
            request, expected = asked(number, draw)
            request.id = draw.choice(["", str(number)])
            timeout = draw.choice([None, 30])
            if draw.random() < 0.1:
                request.parameters["priority"].int64_param = 1
            content = request.SerializeToString()
            if isinstance(expected, str):
                with pytest.raises(grpc.aio.AioRpcError, match=expected):
                    await say(content, timeout=timeout)
            else:
                answer = await say(content, timeout=timeout)
                check(pb.ModelInferResponse.FromString(answer), request, expected)

        for wave in range(6):
            await asyncio.gather(*[ask(1000 * wave + number) for number in range(250)])


def check(
    response: pb.ModelInferResponse, request: pb.ModelInferRequest, expected: dict[str, Any]
) -> None:
    """The answer is right, in every field."""
    assert (response.id, response.model_name) == (request.id, request.model_name)
    assert response.model_version == "1"
    assert response.parameters["variant"].string_param == "original"
    assert [output.name for output in response.outputs] == list(expected)
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        array = expected[output.name]
        assert tuple(output.shape) == array.shape
        if array.dtype.hasobject:
            texts = [text.encode() for text in array.ravel()]
            assert raw == b"".join(len(text).to_bytes(4, "little") + text for text in texts)
        else:
            assert raw == array.tobytes()


async def test_bursts_share_runs_and_every_request_is_counted(
    server: Server, transport: str
) -> None:
    before = counted(server)
    x = np.zeros((1, 3), np.int32)
    content = inference_request("same", {"x": x}).SerializeToString()
    async with method(server, "ModelInfer") as say:
        for _ in range(10):
            await asyncio.gather(*[say(content) for _ in range(64)])
    after = counted(server)
    found = {name: after[name] - before[name] for name in after}
    assert found["hone_batch_size_sum"] == 640
    if transport == "native":  # the other one delivers one request at a time
        assert found["hone_batch_size_count"] < 500
    for name in ("hone_request_duration_seconds_count", "hone_queue_duration_seconds_count"):
        assert found[name] == 640


def counted(server: Server) -> dict[str, float]:
    """Totals of model `same`."""
    with urllib.request.urlopen(server.metrics) as answer:
        text = answer.read().decode()
    names = (
        *("hone_batch_size_sum", "hone_batch_size_count"),
        *("hone_request_duration_seconds_count", "hone_queue_duration_seconds_count"),
    )
    found = {}
    for name in names:
        match = re.search(rf'^{name}{{[^}}]*model="same"[^}}]*}} (\S+)$', text, re.MULTILINE)
        assert match, name
        found[name] = float(match[1])
    return found


async def test_a_known_form_is_checked_anew_when_the_model_is_loaded_anew(
    server: Server, repository: Path
) -> None:
    models.identity(repository / "changing/1/model.onnx", TensorProto.FLOAT, ("batch", 2))
    config = repository / "changing/config.pbtxt"
    config.unlink(missing_ok=True)
    request = inference_request("changing", {"x": np.ones((2, 2), np.float32)})
    content = request.SerializeToString()
    async with (
        method(server, "ModelInfer") as say,
        method(server, "RepositoryModelLoad") as load,
        method(server, "RepositoryModelUnload") as unload,
    ):
        named = pb.RepositoryModelLoadRequest(model_name="changing").SerializeToString()
        await load(named)
        for _ in range(3):
            await asyncio.gather(*[say(content) for _ in range(20)])
        # The runtime would still take it.
        config.write_text("max_batch_size: 1")
        await load(named)
        for _ in range(2):
            asked = [say(content) for _ in range(20)]
            for answer in await asyncio.gather(*asked, return_exceptions=True):
                assert isinstance(answer, grpc.aio.AioRpcError)
                assert "batch-size must be <= 1" in str(answer.details())
        await unload(pb.RepositoryModelUnloadRequest(model_name="changing").SerializeToString())
        with pytest.raises(grpc.aio.AioRpcError, match="changing"):
            await say(content)
