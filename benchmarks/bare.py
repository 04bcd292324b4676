"""What Hone is compared with: a gRPC server with nothing behind it, or only the runtime.

usage: python -m benchmarks.bare REPOSITORY THREADS LANES

`ModelInfer` of model `noop` answers a fixed message without looking at the request. Of any other
model it hands the request's bytes to onnxruntime and its answer back: no checks, no batching, no
metrics, the transport and the session arrangement that Hone uses.
"""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import onnxruntime

from server.pb import open_inference_pb2 as pb

NOOP = b"noop"


async def main(repository: Path, threads: int, lanes: int) -> None:
    """Serve until killed."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    sessions = {
        folder.name: onnxruntime.InferenceSession(
            str(folder / "1/model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        for folder in repository.iterdir()
    }
    pool = ThreadPoolExecutor(lanes)
    loop = asyncio.get_running_loop()
    answer = pb.ModelInferResponse(model_name="noop", model_version="1")
    answer.outputs.add(name="y", datatype="FP32", shape=[1, 10])
    answer.raw_output_contents.append(bytes(40))
    fixed = answer.SerializeToString()

    def run(content: bytes) -> bytes:
        request = pb.ModelInferRequest.FromString(content)
        tensor = request.inputs[0]
        dtype = np.int64 if tensor.datatype == "INT64" else np.float32
        feed = np.frombuffer(request.raw_input_contents[0], dtype).reshape(tuple(tensor.shape))
        [result] = sessions[request.model_name].run(None, {"x": feed})
        response = pb.ModelInferResponse(model_name=request.model_name, model_version="1")
        response.outputs.add(name="y", datatype="FP32", shape=result.shape)
        response.raw_output_contents.append(result.tobytes())
        return response.SerializeToString()

    async def infer(content: bytes, context: object) -> bytes:
        if NOOP in content[:8]:
            return fixed
        return await loop.run_in_executor(pool, run, content)

    server = grpc.aio.server(options=[("grpc.max_receive_message_length", 64 << 20)])
    handler = grpc.unary_unary_rpc_method_handler(infer)
    service = "inference.GRPCInferenceService"
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {"ModelInfer": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"Ready grpc=127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
