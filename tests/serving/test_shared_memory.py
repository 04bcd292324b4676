"""Tensors in shared memory: served where allowed, and nobody gets at anything else through it."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from server.client import CallFailed, Client, inference_request
from server.pb import open_inference_pb2 as pb
from tests.support import models
from tests.support.calls import floats, infer, linear_request, refusal
from tests.support.memory import DIRECTORY, fresh_key, point, shared_object
from tests.support.servers import Server, running

BIAS = np.arange(3, dtype=np.float32)
CALLS: dict[str, tuple[Any, Any]] = {
    f"{kind}SharedMemory{verb}": (
        getattr(pb, f"{kind}SharedMemory{verb}Request"),
        getattr(pb, f"{kind}SharedMemory{verb}Response"),
    )
    for kind in ("System", "Cuda")
    for verb in ("Status", "Register", "Unregister")
}


def repository(folder: Path) -> Path:
    models.linear(folder / "linear/1/model.onnx")
    models.two_inputs(folder / "pair/1/model.onnx")
    models.identity(folder / "text/1/model.onnx", TensorProto.STRING, ["batch"])
    models.identity(folder / "flag/1/model.onnx", TensorProto.BOOL)
    models.slow(folder / "slow/1/model.onnx")
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = repository(tmp_path_factory.mktemp("models"))
    with running(folder, tmp_path_factory.mktemp("state"), "--allow-shared-memory") as server:
        yield server


async def call(server: Server, method: str, **fields: Any) -> Any:
    request, response = CALLS[method]
    async with Client(server.public) as client:
        return await client.call(method, request(**fields), response, timeout=10)


async def refused(server: Server, method: str, **fields: Any) -> tuple[str, str]:
    with pytest.raises(CallFailed) as caught:
        await call(server, method, **fields)
    return caught.value.code.name, str(caught.value)


async def register(server: Server, path: Path, *, name: str = "", offset: int = 0) -> str:
    name = name or path.name
    size = path.stat().st_size - offset
    await call(
        server,
        "SystemSharedMemoryRegister",
        name=name,
        key=path.name,
        offset=offset,
        byte_size=size,
    )
    return name


def shared_linear(region: str, *, output: str = "", rows: int = 1) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="linear")
    point(request.inputs.add(name="x", datatype="FP32", shape=[rows, 4]), region, rows * 16)
    if output:
        point(request.outputs.add(name="y"), output, rows * 12)
    return request


async def test_inputs_and_outputs_lie_in_shared_memory(server: Server) -> None:
    x = floats(2, 4)
    plain = await infer(server.public, inference_request("linear", {"x": x}))
    with shared_object(x.tobytes()) as sent, shared_object(bytes(100)) as wanted:
        request = shared_linear(await register(server, sent), rows=2)
        point(request.outputs.add(name="y"), await register(server, wanted), 60, 40)
        response = await infer(server.public, request)
        content = wanted.read_bytes()
    assert content[40:64] == plain.raw_output_contents[0]
    assert content[:40] + content[64:] == bytes(76)
    assert list(response.raw_output_contents) == [b""]
    assert list(response.outputs[0].shape) == [2, 3]
    parameters = response.outputs[0].parameters
    assert parameters["shared_memory_region"].string_param == wanted.name
    assert parameters["shared_memory_byte_size"].int64_param == 24
    assert parameters["shared_memory_offset"].int64_param == 40


async def test_an_offset_of_the_region_and_one_of_the_tensor_add_up(server: Server) -> None:
    with shared_object(bytes(32) + np.ones(4, np.float32).tobytes()) as sent:
        region = await register(server, sent, offset=16)
        request = pb.ModelInferRequest(model_name="linear")
        point(request.inputs.add(name="x", datatype="FP32", shape=[1, 4]), region, 16, 16)
        answer = await infer(server.public, request)
    ones = await infer(server.public, inference_request("linear", {"x": np.ones((1, 4), "f4")}))
    assert answer.raw_output_contents[0] == ones.raw_output_contents[0]


@pytest.mark.parametrize("other", ["raw", "typed"])
async def test_only_inputs_outside_shared_memory_count_as_sent(server: Server, other: str) -> None:
    request = pb.ModelInferRequest(model_name="pair")
    with shared_object(np.full(2, 5, np.float32).tobytes()) as sent:
        point(
            request.inputs.add(name="a", datatype="FP32", shape=[1, 2]),
            await register(server, sent),
            8,
        )
        b = request.inputs.add(name="b", datatype="FP32", shape=[1, 2])
        if other == "raw":
            request.raw_input_contents.append(np.full(2, 2, np.float32).tobytes())
        else:
            b.contents.fp32_contents.extend([2, 2])
        answer = await infer(server.public, request)
    assert np.frombuffer(answer.raw_output_contents[0], "f4").tolist() == [7, 7]
    assert np.frombuffer(answer.raw_output_contents[1], "f4").tolist() == [3, 3]


async def test_texts_lie_in_shared_memory_too(server: Server) -> None:
    raw = inference_request("text", {"x": np.array(["süß", "", "abc"], dtype=np.object_)})
    content = raw.raw_input_contents[0]
    with shared_object(content) as sent, shared_object(bytes(64)) as wanted:
        request = pb.ModelInferRequest(model_name="text")
        tensor = request.inputs.add(name="x", datatype="BYTES", shape=[3])
        point(tensor, await register(server, sent), len(content))
        point(request.outputs.add(name="y"), await register(server, wanted), 64)
        response = await infer(server.public, request)
        assert wanted.read_bytes()[: len(content)] == content
    size = response.outputs[0].parameters["shared_memory_byte_size"].int64_param
    assert size == len(content)


async def test_regions_are_listed_and_forgotten(server: Server) -> None:
    await call(server, "SystemSharedMemoryUnregister")
    with shared_object(bytes(64)) as one, shared_object(bytes(32)) as other:
        await register(server, one, name="first", offset=16)
        await register(server, other, name="second")
        every = await call(server, "SystemSharedMemoryStatus")
        assert sorted(every.regions) == ["first", "second"]
        first = (await call(server, "SystemSharedMemoryStatus", name="first")).regions["first"]
        assert (first.name, first.key) == ("first", one.name)
        assert (first.offset, first.byte_size) == (16, 48)
        await call(server, "SystemSharedMemoryUnregister", name="first")
        assert (await refused(server, "SystemSharedMemoryStatus", name="first"))[0] == "NOT_FOUND"
        await call(server, "SystemSharedMemoryUnregister")
        assert not (await call(server, "SystemSharedMemoryStatus")).regions
        code, text = await refusal(server.public, shared_linear("first"))
    assert (code, text) == ("NOT_FOUND", "Unable to find shared memory region: 'first'")


async def test_a_name_is_registered_once(server: Server) -> None:
    with shared_object(bytes(16)) as path:
        name = await register(server, path)
        found = await refused(
            server, "SystemSharedMemoryRegister", name=name, key=path.name, byte_size=8
        )
        await call(server, "SystemSharedMemoryUnregister", name=name)
        await register(server, path)
    assert found == ("ALREADY_EXISTS", f"shared memory region '{name}' already in manager")


async def test_the_extension_is_told_only_where_it_is_allowed(
    server: Server, tmp_path: Path
) -> None:
    async def extensions(of: Server) -> list[str]:
        async with Client(of.public) as client:
            answer = await client.call(
                "ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse
            )
        return list(answer.extensions)

    assert "system_shared_memory" in await extensions(server)
    with running(repository(tmp_path / "models"), tmp_path / "state") as closed:
        assert "system_shared_memory" not in await extensions(closed)
        for method in CALLS:
            code, text = await refused(closed, method)
            assert code == "UNIMPLEMENTED", method
            assert "--allow-shared-memory" in text, method
        request = linear_request()
        point(request.outputs.add(name="y"), "any", 12)
        for wish in (shared_linear("any"), request):
            code, text = await refusal(closed.public, wish)
            assert (code, "shared memory is not enabled" in text) == ("UNIMPLEMENTED", True)


async def test_cuda_memory_cannot_be_registered_and_none_is_there(server: Server) -> None:
    code, text = await refused(
        server, "CudaSharedMemoryRegister", name="gpu", raw_handle=bytes(64), byte_size=8
    )
    assert (code, "use system shared memory" in text) == ("UNIMPLEMENTED", True)
    assert not (await call(server, "CudaSharedMemoryStatus")).regions
    assert (await refused(server, "CudaSharedMemoryStatus", name="gpu"))[0] == "NOT_FOUND"
    await call(server, "CudaSharedMemoryUnregister")


# What a client must not reach


def second_name(path: Path, outside: Path) -> None:
    first = path.with_name(f"{path.name}.1")
    first.write_bytes(bytes(64))
    path.hardlink_to(first)


def of_another_user(path: Path, outside: Path) -> None:
    path.write_bytes(bytes(64))
    os.chown(path, 65534, 0)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


BAD_OBJECTS: dict[str, Callable[[Path, Path], object]] = {
    "nothing": lambda path, outside: None,
    "a link": lambda path, outside: path.symlink_to(outside),
    "a link to a shared object": lambda path, outside: path.symlink_to(DIRECTORY / "other"),
    "a second name of a file": second_name,
    "a folder": lambda path, outside: path.mkdir(),
    "a pipe": lambda path, outside: os.mkfifo(path),
    "another user's": of_another_user,
}


@pytest.mark.parametrize("kind", BAD_OBJECTS)
async def test_only_a_plain_object_of_the_servers_user_is_opened_and_all_refusals_look_alike(
    server: Server, kind: str, tmp_path: Path
) -> None:
    if kind == "another user's" and os.geteuid() != 0:
        pytest.skip("NOT TESTED: ONLY ROOT CAN GIVE A FILE TO ANOTHER USER")
    outside = tmp_path / "secret"
    outside.write_bytes(bytes(64))
    path = DIRECTORY / fresh_key()
    with ExitStack() as stack:
        for one in (path, path.with_name(f"{path.name}.1")):
            stack.callback(remove, one)
        BAD_OBJECTS[kind](path, outside)
        code, text = await refused(
            server, "SystemSharedMemoryRegister", name="bad", key=path.name, byte_size=16
        )
    assert code == "INVALID_ARGUMENT"
    expected = "that exists, is no link, and belongs to the user who runs the server"
    assert text == (
        f"Unable to open shared memory region: '{path.name}'; expected a shared memory object "
        f"{expected}"
    )


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "..",
        "../etc/passwd",
        "/../etc/passwd",
        "a/../../etc/passwd",
        "folder/object",
        "//object",
        ".hidden",
        "a\x00b",
        "a\nb",
        "\uff0e\uff0e",
        "x" * 300,
        "sem.lock",
        "/sem.lock",
        "hone_internal",
        "triton_python_backend_shm_region_1",
    ],
)
async def test_a_key_names_nothing_but_an_object_for_clients(server: Server, key: str) -> None:
    code, text = await refused(
        server, "SystemSharedMemoryRegister", name="bad", key=key, byte_size=16
    )
    assert (code, "may not be used" in text) == ("INVALID_ARGUMENT", True), text
    assert len(text) < 400


@pytest.mark.parametrize(
    ("fields", "code", "part"),
    [
        ({"offset": 0, "byte_size": 65}, "INVALID_ARGUMENT", "end at 65, but its object has 64"),
        ({"offset": 60, "byte_size": 5}, "INVALID_ARGUMENT", "end at 65"),
        ({"offset": 2**64 - 1, "byte_size": 2}, "INVALID_ARGUMENT", "end at 18446744073709551617"),
        ({"offset": 1, "byte_size": 2**64 - 1}, "RESOURCE_EXHAUSTED", "at most"),
        ({"offset": 0, "byte_size": 0}, "INVALID_ARGUMENT", "1 byte or more"),
        ({"name": "", "byte_size": 8}, "INVALID_ARGUMENT", "1 to 256 characters"),
        ({"name": "n" * 257, "byte_size": 8}, "INVALID_ARGUMENT", "got 257"),
    ],
)
async def test_a_region_lies_inside_its_object(
    server: Server, fields: dict[str, Any], code: str, part: str
) -> None:
    with shared_object(bytes(64)) as path:
        given = {"name": "bounds", "key": path.name, **fields}
        found = await refused(server, "SystemSharedMemoryRegister", **given)
    assert (found[0], part in found[1]) == (code, True), found


def parameter(request: pb.ModelInferRequest, name: str, **value: object) -> None:
    for kind, content in value.items():
        setattr(request.inputs[0].parameters[f"shared_memory_{name}"], kind, content)


def beyond_64_bits(request: pb.ModelInferRequest) -> None:
    parameter(request, "offset", int64_param=2**63 - 1)
    parameter(request, "byte_size", int64_param=2**63 - 1)


def with_100_parameters(request: pb.ModelInferRequest) -> None:
    for number in range(100):
        parameter(request, f"p{number}", int64_param=1)


BAD_REQUESTS: dict[str, tuple[Callable[[pb.ModelInferRequest], object], str, str]] = {
    "unknown region": (
        lambda request: parameter(request, "region", string_param="nope"),
        "NOT_FOUND",
        "Unable to find shared memory region: 'nope'",
    ),
    "region alone": (
        lambda request: request.inputs[0].parameters.pop("shared_memory_byte_size"),
        "INVALID_ARGUMENT",
        "must be given together",
    ),
    "size alone": (
        lambda request: request.inputs[0].parameters.pop("shared_memory_region"),
        "INVALID_ARGUMENT",
        "must be given together",
    ),
    "a size that is a text": (
        lambda request: parameter(request, "byte_size", string_param="16"),
        "INVALID_ARGUMENT",
        "must be given as int64_param, got '16'",
    ),
    "a region that is a number": (
        lambda request: parameter(request, "region", int64_param=3),
        "INVALID_ARGUMENT",
        "must be given as string_param",
    ),
    "an unknown parameter": (
        lambda request: parameter(request, "colour", string_param="red"),
        "INVALID_ARGUMENT",
        "unknown parameter 'shared_memory_colour'",
    ),
    "a negative offset": (
        lambda request: parameter(request, "offset", int64_param=-1),
        "INVALID_ARGUMENT",
        "Invalid offset + byte size",
    ),
    "a negative size": (
        lambda request: parameter(request, "byte_size", int64_param=-16),
        "INVALID_ARGUMENT",
        "Invalid offset + byte size",
    ),
    "an offset at the end": (
        lambda request: parameter(request, "offset", int64_param=64),
        "INVALID_ARGUMENT",
        "offset 64 and 16 bytes do not lie inside its 64 bytes",
    ),
    "a sum that would wrap": (
        beyond_64_bits,
        "INVALID_ARGUMENT",
        "do not lie inside",
    ),
    "fewer bytes than the shape": (
        lambda request: parameter(request, "byte_size", int64_param=15),
        "INVALID_ARGUMENT",
        "byte size 15 for input 'x', expecting 16",
    ),
    "more bytes than the shape": (
        lambda request: parameter(request, "byte_size", int64_param=17),
        "INVALID_ARGUMENT",
        "byte size 17 for input 'x', expecting 16",
    ),
    "raw content as well": (
        lambda request: request.raw_input_contents.append(bytes(16)),
        "INVALID_ARGUMENT",
        "for each of 0 inputs, got 1",
    ),
    "typed content as well": (
        lambda request: request.inputs[0].contents.fp32_contents.extend([1] * 4),
        "INVALID_ARGUMENT",
        "contents field must not be specified",
    ),
    "too small for the output": (
        lambda request: point(request.outputs.add(name="y"), "box", 11),
        "INVALID_ARGUMENT",
        "'y' (11 bytes) should be at least 12 bytes",
    ),
    "an output outside": (
        lambda request: point(request.outputs.add(name="y"), "box", 12, 60),
        "INVALID_ARGUMENT",
        "do not lie inside",
    ),
    "an output nowhere": (
        lambda request: point(request.outputs.add(name="y"), "nope", 12),
        "NOT_FOUND",
        "'nope'",
    ),
    "100 parameters": (
        with_100_parameters,
        "RESOURCE_EXHAUSTED",
        "at most 64 may be",
    ),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
async def test_a_bad_request_is_refused_without_a_path_and_the_server_still_serves(
    server: Server, case: str
) -> None:
    change, code, part = BAD_REQUESTS[case]
    await call(server, "SystemSharedMemoryUnregister", name="box")
    with shared_object(bytes(64)) as path:
        await register(server, path, name="box")
        request = shared_linear("box")
        change(request)
        found, text = await refusal(server.public, request)
        assert (found, part in text) == (code, True), text
        for secret in ("/", str(server.process.pid), path.name, "Traceback", "File "):
            assert secret not in text
        assert not re.search(r"\b0x[0-9a-f]+", text)
        assert (await infer(server.public, shared_linear("box"))).model_version == "1"


async def test_a_boolean_of_2_is_refused_in_shared_memory_too(server: Server) -> None:
    with shared_object(b"\x02\x00\x01") as path:
        request = pb.ModelInferRequest(model_name="flag")
        tensor = request.inputs.add(name="x", datatype="BOOL", shape=[1, 3])
        point(tensor, await register(server, path), 3)
        code, text = await refusal(server.public, request)
    assert (code, "must be the byte 0 or 1" in text) == ("INVALID_ARGUMENT", True)


# What a client can do to its own memory meanwhile


async def test_an_object_that_was_truncated_is_an_error_and_no_crash(server: Server) -> None:
    with shared_object(bytes(1 << 20)) as path:
        region = await register(server, path)
        os.truncate(path, 8)
        code, text = await refusal(server.public, shared_linear(region))
        assert (code, "has shrunk" in text) == ("INVALID_ARGUMENT", True), text
        request = linear_request()
        point(request.outputs.add(name="y"), region, 12)
        code, text = await refusal(server.public, request)
        assert (code, "has shrunk" in text) == ("INVALID_ARGUMENT", True), text
        assert path.stat().st_size == 8
        os.truncate(path, 1 << 20)
        await infer(server.public, shared_linear(region, output=region))
    assert server.process.poll() is None


async def test_truncating_while_requests_read_and_write_never_harms_the_server(
    server: Server,
) -> None:
    rows = 4096
    with shared_object(bytes(rows * 28)) as path:
        region = await register(server, path)
        request = shared_linear(region, rows=rows)
        point(request.outputs.add(name="y"), region, rows * 12, rows * 16)
        done = asyncio.Event()

        async def truncate() -> None:
            while not done.is_set():
                os.truncate(path, 0)
                await asyncio.sleep(0)
                os.truncate(path, rows * 28)
                await asyncio.sleep(0.001)

        truncating = asyncio.create_task(truncate())
        codes = set()
        async with Client(server.public) as client:
            for _ in range(300):
                try:
                    await client.call("ModelInfer", request, pb.ModelInferResponse, timeout=20)
                    codes.add("OK")
                except CallFailed as error:
                    codes.add(error.code.name)
        done.set()
        await truncating
        assert path.stat().st_size <= rows * 28
    assert codes <= {"OK", "INVALID_ARGUMENT"}
    assert server.process.poll() is None


async def test_a_region_that_is_forgotten_serves_the_requests_that_hold_it(server: Server) -> None:
    with shared_object(bytes(512 * 4)) as path:
        region = await register(server, path)
        ones = np.ones((1, 512), np.float32)
        request = inference_request("slow", {"x": ones})
        point(request.outputs.add(name="y"), region, 2048)
        descriptors = Path(f"/proc/{server.process.pid}/fd")
        async with Client(server.public) as client:
            answering = asyncio.ensure_future(
                client.call("ModelInfer", request, pb.ModelInferResponse, timeout=20)
            )
            await asyncio.sleep(0.01)
            await call(server, "SystemSharedMemoryUnregister", name=region)
            await answering
        assert path.read_bytes() == ones.tobytes()
        held = [os.readlink(one) for one in descriptors.iterdir() if one.exists()]
        assert not [target for target in held if path.name in target]


async def test_an_object_that_may_only_be_read_takes_no_outputs(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("NOT TESTED: ROOT MAY WRITE EVERYTHING")
    with (
        running(repository(tmp_path / "m"), tmp_path / "s", "--allow-shared-memory") as server,
        shared_object(bytes(28)) as path,
    ):
        path.chmod(0o400)
        region = await register(server, path)
        await infer(server.public, shared_linear(region))
        code, text = await refusal(server.public, shared_linear(region, output=region))
    assert (code, "may only read" in text) == ("INVALID_ARGUMENT", True)


async def test_a_tensor_in_shared_memory_is_no_larger_than_one_in_a_message(
    tmp_path: Path,
) -> None:
    flags = ("--allow-shared-memory", "--max-message-bytes", "4096")
    with (
        running(repository(tmp_path / "m"), tmp_path / "s", *flags) as server,
        shared_object(bytes(8192)) as path,
    ):
        region = await register(server, path)
        await infer(server.public, shared_linear(region, rows=256))
        code, text = await refusal(server.public, shared_linear(region, rows=257))
    assert (code, "at most 4096 bytes, got 4112" in text) == ("RESOURCE_EXHAUSTED", True), text
