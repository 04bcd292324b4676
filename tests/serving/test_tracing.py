"""Spans that a real server sends to a real collector's port."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from server.client import inference_request
from server.pb import open_inference_pb2 as pb
from server.timeline import Timeline, note_run
from tests.support import models
from tests.support.calls import floats, linear_request
from tests.support.servers import hone, running

pytest.importorskip("opentelemetry.sdk", reason="TRACING NOT TESTED: install the extra `trace`")

from tests.support.collector import attributes, collecting

REQUEST = "inference.GRPCInferenceService/ModelInfer"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


async def infer(
    address: str, request: pb.ModelInferRequest, metadata: Any = None, timeout: float = 30
) -> pb.ModelInferResponse:
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary(
            f"/{REQUEST}",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        answer: pb.ModelInferResponse = await call(request, metadata=metadata, timeout=timeout)
        return answer


def parent(flags: str = "01") -> tuple[tuple[str, str], ...]:
    return (("traceparent", f"00-{TRACE}-{PARENT}-{flags}"),)


@pytest.mark.alone  # clocks are compared to a millisecond
async def test_a_request_its_wait_and_its_run_are_spans_of_the_callers_trace(
    tmp_path: Path,
) -> None:
    models.linear(tmp_path / "models/linear/1/model.onnx")
    request = linear_request(rows=3)
    request.id = "order-66"
    with collecting() as collector:
        flags = ("--trace-endpoint", collector.url)
        with running(tmp_path / "models", tmp_path / "state", *flags) as server:
            before = time.time_ns()
            await infer(server.public, request, parent())
            after = time.time_ns()
            assert server.stop() == 0
    assert collector.paths == {"/v1/traces"}
    assert collector.resources[0]["service.name"] == "hone"
    [whole], [queue], [run] = (collector.named(name) for name in (REQUEST, "queue", "run"))
    assert whole.trace_id.hex() == queue.trace_id.hex() == run.trace_id.hex() == TRACE
    assert whole.parent_span_id.hex() == PARENT
    assert queue.parent_span_id == run.parent_span_id == whole.span_id
    assert len({whole.span_id, queue.span_id, run.span_id}) == 3
    assert before <= whole.start_time_unix_nano
    # The queue's times come from another clock, which is read to a microsecond or so.
    assert whole.start_time_unix_nano - 100_000 <= queue.start_time_unix_nano
    assert queue.start_time_unix_nano <= queue.end_time_unix_nano
    assert abs(queue.end_time_unix_nano - run.start_time_unix_nano) < 1_000_000
    assert run.start_time_unix_nano < run.end_time_unix_nano
    assert run.end_time_unix_nano <= whole.end_time_unix_nano + 100_000
    assert whole.end_time_unix_nano <= after
    told = attributes(whole)
    assert told["hone.request_id"] == "order-66"
    assert told["rpc.response.status_code"] == "OK"
    for span in (whole, queue, run):
        who = attributes(span)
        assert who["hone.model"] == "linear"
        assert who["hone.version"] == "1"
        assert who["hone.variant"] == "original"
    assert attributes(run)["hone.batch.rows"] == 3


async def test_requests_of_one_run_link_to_each_other(tmp_path: Path) -> None:
    models.slow(tmp_path / "models/slow/1/model.onnx", rounds=4000)
    request = inference_request("slow", {"x": floats(1, 512)})
    with collecting() as collector:
        flags = ("--trace-endpoint", f"{collector.url}/v1/traces", "--cpus", "1")
        with running(tmp_path / "models", tmp_path / "state", *flags) as server:
            await asyncio.gather(*(infer(server.public, request) for _ in range(9)))
            assert server.stop() == 0
    runs = collector.named("run")
    assert len(runs) == len(collector.named(REQUEST)) == 9
    assert len({span.trace_id for span in runs}) == 9
    joined = [span for span in runs if attributes(span)["hone.batch.traced_requests"] > 1]
    assert joined
    requests = {span.span_id for span in collector.named(REQUEST)}
    for span in joined:
        linked = {link.span_id for link in span.links}
        assert len(linked) == attributes(span)["hone.batch.traced_requests"] - 1
        assert linked < requests
        assert span.parent_span_id not in linked
        assert attributes(span)["hone.batch.rows"] > 1


async def test_a_request_that_never_ran_has_a_wait_and_its_code(tmp_path: Path) -> None:
    models.slow(tmp_path / "models/slow/1/model.onnx", rounds=20_000)
    models.linear(tmp_path / "models/linear/1/model.onnx")
    request = inference_request("slow", {"x": floats(1, 512)})
    hasty = pb.ModelInferRequest()
    hasty.CopyFrom(request)
    hasty.id = "hasty"
    hasty.parameters["timeout"].int64_param = 5000
    wrong = linear_request()
    wrong.id = "wrong"
    wrong.inputs[0].name = "nope"
    with collecting() as collector:
        flags = ("--trace-endpoint", collector.url, "--cpus", "1")
        with running(tmp_path / "models", tmp_path / "state", *flags) as server:
            busy = asyncio.create_task(infer(server.public, request))
            await asyncio.sleep(0.1)
            for bad in (hasty, wrong):
                with pytest.raises(grpc.aio.AioRpcError):
                    await infer(server.public, bad)
            await busy
            assert server.stop() == 0
    spans = {attributes(span)["hone.request_id"]: span for span in collector.named(REQUEST)}
    assert attributes(spans["wrong"])["rpc.response.status_code"] == "INVALID_ARGUMENT"
    children = [one for one in collector.spans if one.parent_span_id == spans["wrong"].span_id]
    assert not children
    late = spans["hasty"]
    assert attributes(late)["rpc.response.status_code"] != "OK"
    [wait] = [one for one in collector.spans if one.parent_span_id == late.span_id]
    assert (wait.name, attributes(wait)["hone.ran"]) == ("queue", False)
    assert wait.end_time_unix_nano - wait.start_time_unix_nano >= 4_000_000


async def test_the_ratio_and_the_callers_own_choice_decide_what_is_traced(tmp_path: Path) -> None:
    models.linear(tmp_path / "models/linear/1/model.onnx")
    with collecting() as collector:
        flags = ("--trace-endpoint", collector.url, "--trace-ratio", "0")
        with running(tmp_path / "models", tmp_path / "state", *flags) as server:
            await infer(server.public, linear_request())
            await infer(server.public, linear_request(), parent("00"))
            await infer(server.public, linear_request(), (("traceparent", "rubbish"),))
            await infer(server.public, linear_request(), parent("01"))
            assert server.stop() == 0
    [span] = collector.named(REQUEST)
    assert span.parent_span_id.hex() == PARENT


async def test_a_collector_that_is_away_hinders_nobody(tmp_path: Path) -> None:
    models.linear(tmp_path / "models/linear/1/model.onnx")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        flags = ("--trace-endpoint", url)
        with running(tmp_path / "models", tmp_path / "state", *flags) as server:
            for _ in range(20):
                await infer(server.public, linear_request(), timeout=5)
            started = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - started < 15


def test_nothing_of_opentelemetry_is_imported_unasked() -> None:
    code = "import sys, server.app; print([n for n in sys.modules if 'opentelemetry' in n])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_endpoint_that_is_no_url_is_refused(tmp_path: Path) -> None:
    done = hone("serve", str(tmp_path), "--trace-endpoint", "collector:4318")
    assert done.returncode == 1
    assert "--trace-endpoint" in done.stderr


def test_only_traced_requests_of_a_run_are_noted() -> None:
    one, other = Timeline("one"), Timeline("other")
    note_run([one, None, other], rows=7, started_at=1.0, ended_at=2.0)
    assert one.together == other.together == (one, other)
    assert (one.rows, one.started_at, other.ended_at) == (7, 1.0, 2.0)


@pytest.mark.parametrize("transport", ["native", "grpcio"])
async def test_every_request_of_a_stream_is_traced_on_both_transports(
    tmp_path: Path, transport: str
) -> None:
    models.linear(tmp_path / "models/linear/1/model.onnx")
    with collecting() as collector:
        flags = ("--trace-endpoint", collector.url, "--transport", transport)
        with running(tmp_path / "models", tmp_path / "state", *flags) as server:
            await infer(server.public, linear_request(), parent())
            async with grpc.aio.insecure_channel(server.public) as channel:
                call = channel.stream_stream(
                    "/inference.GRPCInferenceService/ModelStreamInfer",
                    request_serializer=pb.ModelInferRequest.SerializeToString,
                    response_deserializer=pb.ModelStreamInferResponse.FromString,
                )
                requests = iter([linear_request(), linear_request()])
                answers = [answer async for answer in call(requests, metadata=parent())]
            assert [answer.error_message for answer in answers] == ["", ""]
            assert server.stop() == 0
    spans = collector.named(REQUEST)
    assert len(spans) == len(collector.named("run")) == 3
    assert {span.parent_span_id.hex() for span in spans} == {PARENT}
