"""KServe's Python server: one worker, gRPC, a `Model` per file, latency logging off, uvloop.

usage: PYTHON kserve_server.py REPOSITORY GRPC_PORT HTTP_PORT
"""

import asyncio
import sys

repository, grpc_port, http_port = sys.argv[1:]
del sys.argv[1:]  # KServe reads the command line when it is imported

import kserve
import uvloop
from sessions import Model, folders


class Served(kserve.Model):
    """One model file."""

    def __init__(self, model: Model) -> None:
        super().__init__(model.name)
        self._model = model
        self.enable_latency_logging = False
        self.ready = True

    async def predict(self, payload, headers=None, response_headers=None):
        """Raw tensor in, raw tensor out."""
        result = await self._model.answer(payload.inputs[0].as_numpy())
        output = kserve.InferOutput("y", list(result.shape), "FP32")
        output.set_data_from_numpy(result)
        return kserve.InferResponse(payload.id or "", self.name, [output])


if __name__ == "__main__":
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.set_event_loop(asyncio.new_event_loop())
    server = kserve.ModelServer(
        http_port=int(http_port), grpc_port=int(grpc_port), workers=1, enable_latency_logging=False
    )
    server.start([Served(Model(folder)) for folder in folders(repository)])
