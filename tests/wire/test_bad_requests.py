"""Every bad request gets the right code and a text that says what was expected."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Callable, Iterator

import grpc
import numpy as np
import pytest
from onnx import TensorProto

from server.client import Client, inference_request
from server.pb import open_inference_pb2 as inference
from tests.support import models
from tests.support.calls import floats, infer, linear_request, refusal
from tests.support.servers import Server, running

Request = inference.ModelInferRequest


@pytest.fixture(scope="module")
def server(transport: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    repository = tmp_path_factory.mktemp("models")
    models.linear(repository / "linear/1/model.onnx")
    models.two_inputs(repository / "pair/1/model.onnx")
    models.free_widths(repository / "widths/1/model.onnx")
    models.identity(repository / "text/1/model.onnx", TensorProto.STRING, ["batch"])
    models.identity(repository / "flag/1/model.onnx", TensorProto.BOOL)
    with running(repository, tmp_path_factory.mktemp("state")) as server:
        yield server


def changed(change: Callable[[Request], object]) -> Request:
    request = linear_request()
    change(request)
    return request


def named(name: str, version: str = "") -> Request:
    request = linear_request(version=version)
    request.model_name = name
    return request


def with_shape(*shape: int) -> Request:
    def change(request: Request) -> None:
        request.inputs[0].shape[:] = shape

    return changed(change)


def with_raw(length: int) -> Request:
    def change(request: Request) -> None:
        request.raw_input_contents[0] = bytes(length)

    return changed(change)


def typed(values: int, member: str = "fp32_contents") -> Request:
    request = Request(model_name="linear")
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    getattr(tensor.contents, member).extend([1] * values)
    return request


def mixed() -> Request:
    request = linear_request()
    request.inputs[0].contents.fp32_contents.extend([1.0] * 4)
    return request


def texts(raw: bytes, count: int = 1) -> Request:
    request = Request(model_name="text")
    request.inputs.add(name="x", datatype="BYTES", shape=[count])
    request.raw_input_contents.append(raw)
    return request


def parameter(name: str, **value: object) -> Request:
    request = linear_request()
    for kind, content in value.items():
        setattr(request.parameters[name], kind, content)
    return request


def shared_memory() -> Request:
    request = linear_request()
    request.inputs[0].parameters["shared_memory_region"].string_param = "region"
    return request


def outputs(*names: str) -> Request:
    request = linear_request()
    for name in names:
        request.outputs.add(name=name)
    return request


def pair(a: tuple[int, ...], b: tuple[int, ...]) -> Request:
    return inference_request("pair", {"a": floats(*a), "b": floats(*b)})


BAD: dict[str, tuple[Request, str, str]] = {
    "unknown model": (named("nope"), "NOT_FOUND", "Request for unknown model: 'nope' is not found"),
    "empty model": (named(""), "NOT_FOUND", "Request for unknown model: '' is not found"),
    "escaping model": (named("../linear"), "NOT_FOUND", "unknown model"),
    "slash in the model": (named("linear/1"), "NOT_FOUND", "unknown model"),
    "unknown version": (
        named("linear", "7"),
        "NOT_FOUND",
        "Request for unknown model: 'linear' version 7 is not found",
    ),
    "absurd version": (named("linear", "9" * 400), "NOT_FOUND", "version 999"),
    "no number": (named("linear", "newest"), "NOT_FOUND", "version newest is not found"),
    "unknown variant": (named("linear", "1@nope"), "NOT_FOUND", "has no variant 'nope'"),
    "no variant after @": (named("linear", "1@"), "INVALID_ARGUMENT", "names no variant"),
    "unknown variant by parameter": (
        parameter("variant", string_param="nope"),
        "NOT_FOUND",
        "has no variant 'nope'",
    ),
    "wrong input name": (
        changed(lambda request: setattr(request.inputs[0], "name", "z")),
        "INVALID_ARGUMENT",
        "missing required input(s) ['x']",
    ),
    "missing input": (
        inference_request("pair", {"a": floats(1, 2)}),
        "INVALID_ARGUMENT",
        "expected 2 inputs but got 1 inputs",
    ),
    "extra input": (
        inference_request("linear", {"x": floats(1, 4), "extra": floats(1, 1)}),
        "INVALID_ARGUMENT",
        "unknown input(s) ['extra']",
    ),
    "duplicate input": (
        changed(lambda request: request.inputs.append(request.inputs[0])),
        "INVALID_ARGUMENT",
        "expected 1 inputs but got 2",
    ),
    "wrong datatype": (
        changed(lambda request: setattr(request.inputs[0], "datatype", "INT64")),
        "INVALID_ARGUMENT",
        "datatype 'INT64', expected 'FP32'",
    ),
    "wrong rank": (with_shape(4), "INVALID_ARGUMENT", "expected [-1, 4], got [4]"),
    "rank of thousands": (with_shape(*[1] * 5000), "INVALID_ARGUMENT", "unexpected shape"),
    "wrong shape": (with_shape(1, 5), "INVALID_ARGUMENT", "expected [-1, 4], got [1, 5]"),
    "negative dimension": (with_shape(-1, 4), "INVALID_ARGUMENT", "got [-1, 4]"),
    "absurd dimension": (with_shape(2**62, 4), "RESOURCE_EXHAUSTED", "elements"),
    "zero rows": (with_shape(0, 4), "INVALID_ARGUMENT", "must be at least 1"),
    "a byte too few": (
        with_raw(15),
        "INVALID_ARGUMENT",
        "byte size 15 for input 'x', expecting 16",
    ),
    "a byte too many": (with_raw(17), "INVALID_ARGUMENT", "expecting 16"),
    "a raw entry too many": (
        changed(lambda request: request.raw_input_contents.append(b"")),
        "INVALID_ARGUMENT",
        "expected one raw_input_contents entry",
    ),
    "raw and typed": (mixed(), "INVALID_ARGUMENT", "contents field must not be specified"),
    "too few typed": (typed(3), "INVALID_ARGUMENT", "expected 4 elements in fp32_contents"),
    "typed in the wrong field": (
        typed(4, "int64_contents"),
        "INVALID_ARGUMENT",
        "must be sent in fp32_contents, got int64_contents",
    ),
    "text longer than the bytes": (
        texts(b"\xff\xff\xff\x7fab"),
        "INVALID_ARGUMENT",
        "claims 2147483647 bytes",
    ),
    "text cut short": (texts(b"\x01\x00"), "INVALID_ARGUMENT", "cannot hold so many"),
    "bytes after the texts": (
        texts(b"\x01\x00\x00\x00aXY"),
        "INVALID_ARGUMENT",
        "unexpected 2 bytes after",
    ),
    "a text that is not UTF-8": (
        texts(b"\x01\x00\x00\x00\xff"),
        "INVALID_ARGUMENT",
        "string 0 of input 'x' is not UTF-8",
    ),
    "too few texts": (texts(b"\x04\x00\x00\x00abcd", 2), "INVALID_ARGUMENT", "expected 2 strings"),
    "a boolean of 2": (
        inference_request("flag", {"x": np.full((1, 3), 2, np.uint8).view(np.bool_)}),
        "INVALID_ARGUMENT",
        "must be the byte 0 or 1",
    ),
    "100,000 outputs": (outputs(*["y"] * 100_000), "RESOURCE_EXHAUSTED", "100000 outputs"),
    "unknown output": (outputs("z"), "INVALID_ARGUMENT", "unexpected inference output 'z'"),
    "output twice": (outputs("y", "y"), "INVALID_ARGUMENT", "requested twice"),
    "shared memory": (shared_memory(), "UNIMPLEMENTED", "shared memory is not enabled"),
    "a sequence": (
        parameter("sequence_id", int64_param=3),
        "UNIMPLEMENTED",
        "sequences are not supported",
    ),
    "a negative timeout": (
        parameter("timeout", int64_param=-1),
        "INVALID_ARGUMENT",
        "non-negative integer",
    ),
    "a reserved parameter": (
        parameter("triton_secret", bool_param=True),
        "INVALID_ARGUMENT",
        "reserved prefix",
    ),
    "inputs with different rows": (
        pair((1, 2), (3, 2)),
        "INVALID_ARGUMENT",
        "must have the same number of rows",
    ),
    "inputs that do not fit together": (
        pair((2, 2), (2, 3)),
        "INVALID_ARGUMENT",
        "could not be run",
    ),
}


@pytest.mark.parametrize("case", BAD)
async def test_bad_request_is_refused_with_its_code_and_the_server_still_serves(
    server: Server, case: str
) -> None:
    request, code, text = BAD[case]
    found_code, found_text = await refusal(server.public, request)
    assert (found_code, text in found_text) == (code, True), found_text
    assert len(found_text) < 5000
    good = await infer(server.public, linear_request())
    assert good.model_version == "1"


@pytest.mark.parametrize("shape", [(2**62, 0), (0, 2**62), (40_000_000, 0)])
async def test_dimensions_without_bytes_cost_no_memory(
    server: Server, shape: tuple[int, ...]
) -> None:
    request = Request(model_name="widths")
    for name in ("a", "b"):
        request.inputs.add(name=name, datatype="FP32", shape=shape)
        request.raw_input_contents.append(b"")
    code, text = await refusal(server.public, request)
    if shape[0]:
        assert (code, "other dimensions" in text) == ("RESOURCE_EXHAUSTED", True), text
    else:
        assert (code, "has no rows" in text) == ("INVALID_ARGUMENT", True), text


async def test_inputs_may_come_in_any_order_and_still_share_a_run(server: Server) -> None:
    def row(*widths: tuple[str, int]) -> Request:
        return inference_request("widths", {name: floats(1, width) for name, width in widths})

    requests = [row(("a", 4), ("b", 8)), row(("b", 4), ("a", 8)), row(("b", 8), ("a", 4))]
    async with Client(server.public) as client:
        answers = await asyncio.gather(
            *(
                client.call("ModelInfer", request, inference.ModelInferResponse, timeout=20)
                for request in requests * 20
            )
        )
    sums = {round(float(np.frombuffer(one.raw_output_contents[0], "f4")[0]), 4) for one in answers}
    assert sums == {round(float(floats(1, 4).sum() + floats(1, 8).sum()), 4)}


async def test_a_long_name_holds_nobody_up(server: Server) -> None:
    code, text = await refusal(server.public, named("\x01" * (30 << 20)))
    assert (code, len(text) <= 1024) == ("NOT_FOUND", True)


async def test_a_message_beyond_64_mib_is_refused(server: Server) -> None:
    request = Request(model_name="linear", raw_input_contents=[bytes(64 << 20)])
    code, _ = await refusal(server.public, request)
    assert code == "RESOURCE_EXHAUSTED"


async def test_bytes_that_are_no_message_are_refused(server: Server) -> None:
    async with grpc.aio.insecure_channel(server.public) as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=bytes,
            response_deserializer=bytes,
        )
        with pytest.raises(grpc.aio.AioRpcError, match="are not a ModelInferRequest message"):
            await call(b"\xff\xff\xff")


async def test_texts_are_served_letter_by_letter(server: Server) -> None:
    sent = np.array(["süß", "", "a\x00b"], dtype=np.object_)
    async with Client(server.public) as client:
        answers, _ = await client.infer("text", {"x": sent})
    assert [text.decode() for text in answers["y"]] == list(sent)


async def test_zero_in_another_variable_dimension_is_served(server: Server) -> None:
    request = inference_request("pair", {"a": floats(2, 0), "b": floats(2, 0)})
    response = await infer(server.public, request)
    assert [list(output.shape) for output in response.outputs] == [[2, 0], [2, 0]]


async def test_unknown_names_never_become_labels(server: Server) -> None:
    await refusal(server.public, named("a-name-nobody-has"))
    with urllib.request.urlopen(server.metrics) as page:
        text = page.read().decode()
    assert "a-name-nobody-has" not in text
    assert 'hone_rejected_total{model="",reason="unknown_model",version="0"}' in text
