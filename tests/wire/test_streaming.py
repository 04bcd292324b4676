"""ModelStreamInfer over a real socket: order, errors inside, back-pressure, every kind of end."""

from __future__ import annotations

import asyncio
import signal
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from server.client import inference_request
from server.errors import InvalidRequest
from server.pb import open_inference_pb2 as pb
from server.rpc.forms import InferenceRequest
from server.rpc.streaming import InferenceStream, StreamLimits
from tests.support import models
from tests.support.calls import floats, linear_request
from tests.support.servers import Server, running
from tests.support.streams import answers_of, stream

SLOW_S = 0.05


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("models")
    models.linear(folder / "linear/1/model.onnx")
    models.slow(folder / "slow/1/model.onnx")
    return folder


@pytest.fixture(scope="module")
def server(
    transport: str, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    with running(repository, tmp_path_factory.mktemp("state")) as server:
        yield server
    assert not [line for line in server.log if "ERROR" in line or "Traceback" in line]


def numbered(number: int, *, name: str = "linear", rows: int = 1) -> pb.ModelInferRequest:
    width = 512 if name == "slow" else 4
    request = inference_request(name, {"x": np.full((rows, width), number, np.float32)})
    request.id = str(number)
    return request


def asking(request_id: str, *contents: bytes) -> InferenceRequest:
    """A request as a stream's handler gets it."""
    message = pb.ModelInferRequest(id=request_id, raw_input_contents=contents)
    return InferenceRequest(message.SerializeToString())


def misnamed(number: int) -> pb.ModelInferRequest:
    request = numbered(number)
    request.model_name = "nope"
    return request


async def read_into(answers: list[pb.ModelStreamInferResponse], call: Any) -> None:
    while True:
        answers.append(await call.read())


def metric(server: Server, start: str) -> float:
    with urllib.request.urlopen(server.metrics) as page:
        lines = page.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(start))


async def test_answers_come_in_the_order_of_their_requests(server: Server) -> None:
    async with stream(server.public) as call:
        for number in range(200):
            # A slow request first: everything behind it is ready long before it is.
            await call.write(numbered(number, name="slow" if number == 0 else "linear"))
        await call.done_writing()
        answers = await answers_of(call)
        assert await call.code() is grpc.StatusCode.OK
    assert [answer.infer_response.id for answer in answers] == [str(n) for n in range(200)]
    assert not any(answer.error_message for answer in answers)


async def test_a_stream_answers_what_a_single_call_answers(server: Server) -> None:
    async with stream(server.public) as call:
        await call.write(linear_request(3))
        answer = (await call.read()).infer_response
        await call.done_writing()
        assert await answers_of(call) == []
    assert answer.parameters["triton_final_response"].bool_param
    assert answer.parameters["variant"].string_param == "original"
    assert answer.model_version == "1"
    assert np.frombuffer(answer.raw_output_contents[0], "f4").shape == (9,)


@pytest.mark.parametrize("asked", [True, False])
async def test_every_answer_is_the_final_one_of_its_request(server: Server, asked: bool) -> None:
    request = numbered(1)
    request.parameters["triton_enable_empty_final_response"].bool_param = asked
    async with stream(server.public) as call:
        await call.write(request)
        await call.done_writing()
        answers = await answers_of(call)
    assert len(answers) == 1
    assert answers[0].infer_response.parameters["triton_final_response"].bool_param


async def test_an_error_stays_inside_the_stream_under_its_request_id(server: Server) -> None:
    async with stream(server.public) as call:
        for request in (numbered(1), misnamed(2), numbered(3)):
            await call.write(request)
        await call.done_writing()
        answers = await answers_of(call)
        assert await call.code() is grpc.StatusCode.OK
    assert [answer.infer_response.id for answer in answers] == ["1", "2", "3"]
    assert [bool(answer.error_message) for answer in answers] == [False, True, False]
    assert answers[1].error_message == "Request for unknown model: 'nope' is not found"
    assert not answers[1].infer_response.outputs


async def test_a_caller_may_have_an_error_end_the_stream(server: Server) -> None:
    async with stream(server.public, metadata=(("triton_grpc_error", "true"),)) as call:
        await call.write(numbered(1))
        assert (await call.read()).infer_response.id == "1"
        await call.write(misnamed(2))
        with pytest.raises(grpc.aio.AioRpcError, match="unknown model"):
            await answers_of(call)
        assert await call.code() is grpc.StatusCode.NOT_FOUND


async def test_bytes_that_are_no_message_end_the_stream_after_what_came_before(
    server: Server,
) -> None:
    async with stream(server.public) as call:
        await call.write(numbered(1, name="slow"))
        await call.write(b"\xff\xff\xff")
        assert (await call.read()).infer_response.id == "1"
        with pytest.raises(grpc.aio.AioRpcError, match="are not a ModelInferRequest message"):
            await call.read()
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_stream_without_requests_ends_well(server: Server) -> None:
    async with stream(server.public) as call:
        await call.done_writing()
        assert await answers_of(call) == []
        assert await call.code() is grpc.StatusCode.OK


async def test_a_cancelled_stream_takes_its_waiting_requests_out_of_the_queue(
    server: Server,
) -> None:
    async with stream(server.public) as call:
        for number in range(20):
            await call.write(numbered(number, name="slow", rows=32))
        assert not (await call.read()).error_message
        assert metric(server, 'hone_requests_in_flight{model="slow"') > 0
        call.cancel()
    for _ in range(100):
        if not metric(server, 'hone_requests_in_flight{model="slow"'):
            break
        await asyncio.sleep(SLOW_S)
    assert metric(server, 'hone_requests_in_flight{model="slow"') == 0
    assert metric(server, 'hone_rejected_total{model="slow",reason="cancelled"') > 0


async def test_the_streams_deadline_is_the_deadline_of_each_request(server: Server) -> None:
    def out_of_time() -> float:
        """Requests whose deadline passed, or was seen to be too near."""
        codes = ("DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")
        return sum(
            metric(server, f'hone_requests_total{{code="{code}",model="slow"') for code in codes
        )

    before = out_of_time()
    async with stream(server.public, timeout=0.3) as call:
        for number in range(20):
            await call.write(numbered(number, name="slow", rows=32))
        with pytest.raises(grpc.aio.AioRpcError):
            await answers_of(call)
        assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.sleep(SLOW_S)
    assert out_of_time() > before


def taken(server: Server) -> float:
    """Requests to the slow model that were answered or will be; none is counted twice."""
    answered = metric(server, 'hone_requests_total{code="OK",model="slow"')
    return answered + metric(server, 'hone_requests_in_flight{model="slow"')


async def test_a_stopping_server_answers_what_it_took_and_ends_the_stream(
    repository: Path, tmp_path: Path
) -> None:
    with running(repository, tmp_path) as server:
        async with stream(server.public) as call:
            for number in range(5):
                await call.write(numbered(number, name="slow"))
            first = await call.read()
            while taken(server) < 5:
                await asyncio.sleep(0.01)
            server.process.send_signal(signal.SIGTERM)
            answers = [first]
            with pytest.raises(grpc.aio.AioRpcError, match="the server is stopping"):
                await read_into(answers, call)
            assert await call.code() is grpc.StatusCode.UNAVAILABLE
        assert server.process.wait(20) == 0
    assert [answer.infer_response.id for answer in answers] == ["0", "1", "2", "3", "4"]
    assert not any(answer.error_message for answer in answers)


async def test_an_idle_stream_does_not_hold_a_stopping_server_up(
    repository: Path, tmp_path: Path
) -> None:
    with running(repository, tmp_path) as server:
        async with stream(server.public) as call:
            await call.write(numbered(1))
            await call.read()
            start = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
                await call.read()
            assert server.process.wait(20) == 0
            assert time.monotonic() - start < 10


class Endless:
    """Requests without end, counting how many were taken."""

    def __init__(self, size: int = 0) -> None:
        self.taken = 0
        self._raw = bytes(size)

    async def requests(self) -> AsyncIterator[InferenceRequest]:
        while True:
            self.taken += 1
            yield asking(str(self.taken), self._raw)


@pytest.mark.parametrize(("size", "most"), [(0, 8), (300, 4)])
async def test_a_full_stream_is_read_no_further(size: int, most: int) -> None:
    gate = asyncio.Semaphore(0)

    async def infer(request: InferenceRequest, deadline: float | None) -> bytes:
        await gate.acquire()
        return pb.ModelInferResponse(id=request.id).SerializeToString()

    sender = Endless(size)
    limits = StreamLimits(requests=8, request_bytes=1000)
    answers = InferenceStream(infer, None, {}, limits).answers(sender.requests())
    first = asyncio.ensure_future(anext(answers))
    await asyncio.sleep(0.02)
    assert sender.taken == most
    gate.release()
    assert (await first).infer_response.id == "1"
    second = asyncio.ensure_future(anext(answers))
    await asyncio.sleep(0.02)
    assert sender.taken == most + 1
    gate.release()
    assert (await second).infer_response.id == "2"
    await answers.aclose()


async def test_closing_the_answers_cancels_what_is_in_flight() -> None:
    cancelled = []

    async def infer(request: InferenceRequest, deadline: float | None) -> bytes:
        if request.id == "1":
            return pb.ModelInferResponse(id=request.id).SerializeToString()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(request.id)
            raise
        raise AssertionError("nobody sets the event")

    limits = StreamLimits(requests=4)
    answers = InferenceStream(infer, None, {}, limits).answers(Endless().requests())
    assert (await anext(answers)).infer_response.id == "1"
    await asyncio.sleep(0.02)
    await answers.aclose()
    assert cancelled == ["2", "3", "4"]
    assert len(asyncio.all_tasks()) == 1


async def test_what_ends_the_requests_is_raised_after_the_answers() -> None:
    async def infer(request: InferenceRequest, deadline: float | None) -> bytes:
        await asyncio.sleep(0.01)
        return pb.ModelInferResponse(id=request.id).SerializeToString()

    async def requests() -> AsyncIterator[InferenceRequest]:
        yield asking("1")
        yield asking("2")
        raise InvalidRequest("enough")

    answers = InferenceStream(infer, None, {}).answers(requests())
    assert [(await anext(answers)).infer_response.id for _ in range(2)] == ["1", "2"]
    with pytest.raises(InvalidRequest, match="enough"):
        await anext(answers)


async def test_many_streams_at_once_get_their_own_answers(server: Server) -> None:
    async def ask(seed: int) -> None:
        sent = [floats(1, 4, seed=seed * 100 + step) for step in range(30)]
        async with stream(server.public) as call:
            for array in sent:
                await call.write(inference_request("linear", {"x": array}))
            await call.done_writing()
            streamed = [one.infer_response.raw_output_contents[0] for one in await answers_of(call)]
        async with stream(server.public) as call:
            for array, answer in zip(sent, streamed, strict=True):
                await call.write(inference_request("linear", {"x": array}))
                alone = (await call.read()).infer_response.raw_output_contents[0]
                np.testing.assert_allclose(
                    np.frombuffer(answer, "f4"), np.frombuffer(alone, "f4"), rtol=1e-5
                )

    await asyncio.gather(*(ask(seed) for seed in range(8)))
