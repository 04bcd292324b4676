"""Compressed requests, zip bombs, and answers compressed on request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from onnx import TensorProto

from server.client import inference_request
from server.pb import open_inference_pb2 as pb
from tests.support import models
from tests.support.servers import Server, running
from tests.support.streams import PATH as STREAM
from tests.support.traffic import relayed

INFER = "/inference.GRPCInferenceService/ModelInfer"
ALGORITHMS = {"gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}
NOT_NATIVE = {"deflate"}
ZEROS = np.zeros((1, 100_000), np.float32)
LIMIT = 4 << 20
BOMB = bytes(128 << 20)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("models")
    models.identity(folder / "same/1/model.onnx", TensorProto.FLOAT, ["batch", "n"])
    return folder


@pytest.fixture(scope="module")
def server(
    transport: str, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    flags = ("--max-message-bytes", str(LIMIT))
    with running(repository, tmp_path_factory.mktemp("state"), *flags) as server:
        yield server


@pytest.fixture(scope="module")
def compressing(
    transport: str, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server that compresses on request, which it does through grpcio whatever is the default."""
    flags = ("--transport", "auto", "--response-compression")
    with running(repository, tmp_path_factory.mktemp("state"), *flags) as server:
        yield server


async def ask(
    address: str,
    request: pb.ModelInferRequest | bytes,
    *,
    compression: grpc.Compression = grpc.Compression.NoCompression,
    metadata: tuple[tuple[str, str], ...] = (),
) -> pb.ModelInferResponse:
    options = [("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        call: Any = channel.unary_unary(
            INFER,
            request_serializer=lambda one: (
                one if isinstance(one, bytes) else one.SerializeToString()
            ),
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        answer: pb.ModelInferResponse = await call(
            request, timeout=60, compression=compression, metadata=metadata
        )
    return answer


def peak_bytes(server: Server) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


@pytest.mark.parametrize("name", ALGORITHMS)
async def test_a_compressed_request_is_answered(transport: str, server: Server, name: str) -> None:
    request = inference_request("same", {"x": ZEROS})
    if transport == "native" and name in NOT_NATIVE:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(server.public, request, compression=ALGORITHMS[name])
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        return
    async with relayed(server.public) as traffic:
        answer = await ask(traffic.address, request, compression=ALGORITHMS[name])
    assert answer.raw_output_contents[0] == ZEROS.tobytes()
    assert traffic.sent < ZEROS.nbytes / 20
    assert traffic.received > ZEROS.nbytes


@pytest.mark.parametrize("name", ALGORITHMS)
async def test_a_zip_bomb_is_refused_and_takes_no_memory_in_grpcio(
    transport: str, server: Server, name: str
) -> None:
    if transport == "native" and name in NOT_NATIVE:
        return  # refused unread, as the test above shows
    await ask(server.public, inference_request("same", {"x": ZEROS}))
    before = peak_bytes(server)
    async with relayed(server.public) as traffic:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(traffic.address, BOMB, compression=ALGORITHMS[name])
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert traffic.sent < LIMIT
    if transport == "grpcio":  # the native one unpacks a message before it looks at its size
        assert peak_bytes(server) - before < 16 << 20
    await ask(server.public, inference_request("same", {"x": ZEROS}))


async def test_a_zip_bomb_in_a_stream_ends_the_stream_and_takes_no_memory(server: Server) -> None:
    await ask(server.public, inference_request("same", {"x": ZEROS}))
    before = peak_bytes(server)
    options = [("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(server.public, options=options) as channel:
        method: Any = channel.stream_stream(
            STREAM, request_serializer=bytes, response_deserializer=bytes
        )
        call = method(timeout=60, compression=grpc.Compression.Gzip)
        await call.write(BOMB)
        with pytest.raises(grpc.aio.AioRpcError):
            await call.read()
        assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert peak_bytes(server) - before < 16 << 20


@pytest.mark.parametrize("name", ALGORITHMS)
async def test_an_answer_is_compressed_for_whoever_asks(compressing: Server, name: str) -> None:
    request = inference_request("same", {"x": ZEROS})
    async with relayed(compressing.public) as traffic:
        answer = await ask(traffic.address, request, metadata=(("response-compression", name),))
        assert answer.raw_output_contents[0] == ZEROS.tobytes()
        assert traffic.received < ZEROS.nbytes / 20
        traffic.received = 0
        await ask(traffic.address, request, metadata=(("other", name),))
        assert traffic.received > ZEROS.nbytes


@pytest.mark.parametrize("value", ["", "brotli", "GZIP", "gzip, deflate"])
async def test_an_unknown_compression_is_refused_by_name(compressing: Server, value: str) -> None:
    request = inference_request("same", {"x": ZEROS})
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(compressing.public, request, metadata=(("response-compression", value),))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == (
        f"metadata 'response-compression' must be one of gzip, deflate, got '{value}'"
    )


async def test_nobody_is_asked_where_it_is_not_switched_on(
    repository: Path, tmp_path: Path
) -> None:
    request = inference_request("same", {"x": ZEROS})
    with running(repository, tmp_path) as plain:
        async with relayed(plain.public) as traffic:
            await ask(traffic.address, request, metadata=(("response-compression", "gzip"),))
    assert traffic.received > ZEROS.nbytes
