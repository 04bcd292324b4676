"""What Hone is compared with: a gRPC server with nothing behind it, or only the runtime.

usage: python -m benchmarks.bare noop|runtime|wide grpcio|native REPOSITORY

`noop` answers a fixed message without looking at the request. `runtime` hands the request's tensor
to onnxruntime and its answer back: no checks, no batching, no metrics. So does `wide`, with one
run at a time that takes every processor, for a caller who is alone. All on uvloop.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import numpy as np
import uvloop

from benchmarks.peers.sessions import CPUS, Model, folders
from optimizers.contract.host import cpu_budget
from server.pb import open_inference_pb2 as pb
from server.rpc.transport import io_threads

LARGEST_MESSAGE = 64 << 20
SERVICE = "inference.GRPCInferenceService"
Handler = Callable[[bytes, Any], Awaitable[bytes]]


def noop() -> Handler:
    """A fixed answer of ten float32."""
    response = _response("noop", np.zeros((1, 10), np.float32))

    async def infer(content: bytes, context: object) -> bytes:
        return response

    return infer


def runtime(repository: str, threads: int = 1) -> Handler:
    """A run of so many threads for each request."""
    models = {folder.name: Model(folder, threads) for folder in folders(repository)}

    async def infer(content: bytes, context: object) -> bytes:
        request = pb.ModelInferRequest.FromString(content)
        model, tensor = models[request.model_name], request.inputs[0]
        x = np.frombuffer(request.raw_input_contents[0], model.dtype).reshape(tuple(tensor.shape))
        return _response(request.model_name, await model.answer(x))

    return infer


def new_server(over: str) -> Any:
    """A server of grpc.aio's kind; the native transport has as many threads as Hone gives it."""
    options = [
        ("grpc.max_receive_message_length", LARGEST_MESSAGE),
        ("grpc.max_send_message_length", LARGEST_MESSAGE),
    ]
    if over == "native":
        import pygrpc_native.aio

        return pygrpc_native.aio.Server(options=options, io_threads=io_threads(cpu_budget()))
    return grpc.aio.server(options=options)


async def main(kind: str, over: str, repository: str) -> None:
    """Serve until killed."""
    infer = noop() if kind == "noop" else runtime(repository, CPUS if kind == "wide" else 1)
    server = new_server(over)
    handlers = {"ModelInfer": grpc.unary_unary_rpc_method_handler(infer)}
    server.add_registered_method_handlers(SERVICE, handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"Ready grpc=127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


def _response(name: str, result: Any) -> bytes:
    response = pb.ModelInferResponse(model_name=name, model_version="1")
    response.outputs.add(name="y", datatype="FP32", shape=result.shape)
    response.raw_output_contents.append(result.tobytes())
    return response.SerializeToString()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
