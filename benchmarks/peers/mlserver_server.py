"""MLServer without a worker process: a custom runtime per file, no batching, debug off, uvloop.

usage: PYTHON mlserver_server.py REPOSITORY GRPC_PORT HTTP_PORT
"""

import asyncio
import sys
from pathlib import Path

import uvloop
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from sessions import Model, folders


class Served(MLModel):
    """One model file."""

    async def load(self) -> bool:
        """Open it."""
        self._model = Model(Path(self.settings.parameters.uri))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Tensor in, tensor out, by MLServer's own codec."""
        result = await self._model.answer(NumpyCodec.decode_input(payload.inputs[0]))
        output = NumpyCodec.encode_output("y", result)
        return InferenceResponse(model_name=self.name, outputs=[output])


async def main(repository: str, grpc_port: int, http_port: int) -> None:
    """Serve until killed."""
    settings = Settings(
        debug=False,
        parallel_workers=0,
        host="127.0.0.1",
        grpc_port=grpc_port,
        http_port=http_port,
        metrics_endpoint=None,
        grpc_max_message_length=64 << 20,
    )
    models = [
        ModelSettings(name=folder.name, implementation=Served, parameters={"uri": str(folder)})
        for folder in folders(repository)
    ]
    await MLServer(settings).start(models)


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
