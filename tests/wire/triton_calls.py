"""Every call that a stock Triton client has for Hone, run in the client's own environment.

usage: triton_calls.py HOST:PORT
"""

import asyncio
import os
import queue
import sys

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
import tritonclient.utils.shared_memory as triton_memory
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

ADDRESS = sys.argv[1]
DATATYPES = {
    "fp16": np.float16,
    "fp32": np.float32,
    "fp64": np.float64,
    "int8": np.int8,
    "int16": np.int16,
    "int32": np.int32,
    "int64": np.int64,
    "uint8": np.uint8,
    "uint16": np.uint16,
    "uint32": np.uint32,
    "uint64": np.uint64,
    "bool": np.bool_,
    "bytes": np.object_,
}


def tensor(name, array):
    made = triton.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array)
    return made


def refused(call, code, part):
    try:
        call()
    except InferenceServerException as error:
        assert code in error.status(), error.status()
        assert part in error.message(), error.message()
    else:
        raise AssertionError(f"was not refused with {code}")


def check_server(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    metadata = client.get_server_metadata()
    assert metadata.name == "hone"
    assert "model_repository" in metadata.extensions


def check_model(client):
    assert client.is_model_ready("pair")
    assert client.is_model_ready("pair", "1")
    metadata = client.get_model_metadata("pair")
    assert [one.name for one in metadata.inputs] == ["a", "b"]
    assert list(metadata.versions) == ["1"]
    assert list(metadata.inputs[0].shape) == [-1, -1]
    config = client.get_model_config("pair").config
    assert config.name == "pair"
    assert config.platform == "onnxruntime_onnx"
    refused(lambda: client.get_model_metadata("nope"), "NOT_FOUND", "Request for unknown model")


def check_inference(client):
    a, b = np.ones((2, 3), np.float32), np.full((2, 3), 2, np.float32)
    inputs = [tensor("a", a), tensor("b", b)]
    result = client.infer("pair", inputs, request_id="question 7")
    assert result.get_response().id == "question 7"
    assert result.get_response().model_version == "1"
    assert (result.as_numpy("sum") == a + b).all()
    assert (result.as_numpy("difference") == a - b).all()
    only = client.infer("pair", inputs, outputs=[triton.InferRequestedOutput("difference")])
    assert [one.name for one in only.get_response().outputs] == ["difference"]
    named = client.infer("pair", inputs, model_version="1@original")
    assert named.get_response().parameters["variant"].string_param == "original"
    refused(lambda: client.infer("pair", inputs[:1]), "INVALID_ARGUMENT", "expected 2 inputs")
    refused(lambda: client.infer("pair", inputs, model_version="9"), "NOT_FOUND", "version 9")


def check_datatypes(client):
    for name, dtype in DATATYPES.items():
        if name == "bytes":
            array = np.array([[b"a\x00b", "süß".encode(), b""]], dtype=np.object_)
        else:
            array = np.array([[0, 1, 1]]).astype(dtype)
        result = client.infer(f"same_{name}", [tensor("x", array)])
        assert (result.as_numpy("y") == array).all(), name
        assert result.as_numpy("y").dtype == dtype, name


def check_statistics(client):
    statistics = client.get_inference_statistics("pair").model_stats[0]
    assert statistics.inference_count >= 6
    assert statistics.inference_stats.success.count >= 3
    assert statistics.inference_stats.fail.count >= 1
    assert statistics.inference_stats.success.ns > 0
    assert len(client.get_inference_statistics().model_stats) > 1


def check_repository(client):
    index = {one.name: one.state for one in client.get_model_repository_index().models}
    assert index["pair"] == "READY"
    client.unload_model("pair")
    assert not ready(client, "pair")
    states = {one.name: one for one in client.get_model_repository_index().models}
    assert (states["pair"].state, states["pair"].reason) == ("UNAVAILABLE", "unloaded")
    client.load_model("pair")
    assert client.is_model_ready("pair")
    refused(lambda: client.load_model("nope"), "NOT_FOUND", "unknown model")
    client.load_model("pair", config='{"max_batch_size": 3, "dynamic_batching": {}}')
    assert client.get_model_config("pair").config.max_batch_size == 3
    wrong = '{"max_batch_sise": 3}'
    refused(lambda: client.load_model("pair", config=wrong), "INVALID_ARGUMENT", "max_batch_sise")
    files = {"file:1/model.onnx": b"nothing"}
    brought = {"config": "{}", "files": files}
    refused(lambda: client.load_model("pair", **brought), "UNIMPLEMENTED", "admin endpoint only")
    client.load_model("pair")
    assert client.get_model_config("pair").config.max_batch_size != 3


def ready(client, name):
    try:
        return client.is_model_ready(name)
    except InferenceServerException as error:
        assert "UNAVAILABLE" in error.status()
        return False


def check_asynchronous(client):
    done = queue.Queue()
    inputs = [tensor("a", np.ones((1, 2), np.float32)), tensor("b", np.ones((1, 2), np.float32))]
    client.async_infer("pair", inputs, lambda result, error: done.put((result, error)))
    result, error = done.get(timeout=30)
    assert error is None
    assert (result.as_numpy("sum") == 2).all()

    async def ask():
        async with triton_aio.InferenceServerClient(ADDRESS) as other:
            answers = await asyncio.gather(*(other.infer("pair", inputs) for _ in range(20)))
            return [answer.as_numpy("sum").tolist() for answer in answers]

    assert asyncio.run(ask()) == [[[2, 2]]] * 20


def check_stream(client):
    done = queue.Queue()
    inputs = [tensor("a", np.ones((1, 2), np.float32)), tensor("b", np.ones((1, 2), np.float32))]
    client.start_stream(lambda result, error: done.put((result, error)))
    for number in range(20):
        name = "nope" if number == 7 else "pair"
        client.async_stream_infer(
            name, inputs, request_id=str(number), enable_empty_final_response=True
        )
    for number in range(20):
        result, error = done.get(timeout=30)
        if number == 7:
            assert "Request for unknown model: 'nope'" in error.message(), error
            continue
        assert error is None, error
        response = result.get_response()
        assert response.id == str(number)
        assert response.parameters["triton_final_response"].bool_param
        assert (result.as_numpy("sum") == 2).all()
    client.stop_stream()

    async def ask():
        async with triton_aio.InferenceServerClient(ADDRESS) as other:

            async def requests():
                for number in range(20):
                    yield {"model_name": "pair", "inputs": inputs, "request_id": str(number)}

            return [result.get_response().id async for result, _ in other.stream_infer(requests())]

    assert asyncio.run(ask()) == [str(number) for number in range(20)]


def check_classification(client):
    assert "classification" in client.get_server_metadata().extensions
    a, b = np.array([[1, 5, 3], [9, 7, 8]], np.float32), np.zeros((2, 3), np.float32)
    wanted = triton.InferRequestedOutput("sum", class_count=2)
    result = client.infer("pair", [tensor("a", a), tensor("b", b)], outputs=[wanted])
    assert result.as_numpy("sum").tolist() == [
        [b"5.000000:1", b"3.000000:2"],
        [b"9.000000:0", b"8.000000:2"],
    ]


def check_shared_memory(client):
    assert "system_shared_memory" in client.get_server_metadata().extensions
    client.unregister_system_shared_memory()
    client.unregister_cuda_shared_memory()
    a, b = np.ones((2, 3), np.float32), np.full((2, 3), 2, np.float32)
    key = f"/client-{os.getpid()}"
    memory = triton_memory.create_shared_memory_region("both", key, 200)
    try:
        triton_memory.set_shared_memory_region(memory, [a, b])
        client.register_system_shared_memory("both", key, 200)
        assert client.get_system_shared_memory_status().regions["both"].byte_size == 200
        refused(
            lambda: client.register_system_shared_memory("both", key, 200),
            "ALREADY_EXISTS",
            "already in manager",
        )
        inputs = [triton.InferInput(name, (2, 3), "FP32") for name in ("a", "b")]
        inputs[0].set_shared_memory("both", 24)
        inputs[1].set_shared_memory("both", 24, offset=24)
        wanted = triton.InferRequestedOutput("sum")
        wanted.set_shared_memory("both", 24, offset=48)
        plain = triton.InferRequestedOutput("difference")
        result = client.infer("pair", inputs, outputs=[wanted, plain])
        output = result.get_output("sum")
        found = triton_memory.get_contents_as_numpy(memory, np.float32, output.shape, offset=48)
        assert (found == a + b).all()
        assert (result.as_numpy("difference") == a - b).all()
        client.unregister_system_shared_memory("both")
        refused(lambda: client.infer("pair", inputs), "NOT_FOUND", "Unable to find")
    finally:
        triton_memory.destroy_shared_memory_region(memory)


with triton.InferenceServerClient(ADDRESS) as shared:
    for check in (
        check_server,
        check_model,
        check_inference,
        check_datatypes,
        check_statistics,
        check_repository,
        check_asynchronous,
        check_stream,
        check_classification,
        check_shared_memory,
    ):
        check(shared)
        print("held:", check.__name__)
