"""LitServe: HTTP/1.1, a row as base64 in JSON, as many workers for each model as processors.

usage: PYTHON litserve_server.py REPOSITORY HTTP_PORT
"""

import base64
import sys
from pathlib import Path

import litserve
import numpy as np
from sessions import CPUS, Model, folders


class Served(litserve.LitAPI):
    """One model file at its own path."""

    def __init__(self, folder: Path) -> None:
        super().__init__(api_path=f"/{folder.name}")
        self._folder = folder

    def setup(self, device: str) -> None:
        """Open it, in the worker's process."""
        self._model = Model(self._folder)

    def decode_request(self, request: dict) -> np.ndarray:
        """One row."""
        body = np.frombuffer(base64.b64decode(request["x"]), self._model.dtype)
        return body.reshape((1, *self._model.row))

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Row in, row out."""
        return self._model.run(x)

    def encode_response(self, output: np.ndarray) -> dict:
        """One row."""
        return {"y": base64.b64encode(output.tobytes()).decode()}


if __name__ == "__main__":
    served = folders(sys.argv[1])
    server = litserve.LitServer(
        [Served(folder) for folder in served],
        accelerator="cpu",
        workers_per_device=CPUS,
    )
    server.run(
        port=int(sys.argv[2]), host="127.0.0.1", log_level="warning", generate_client_file=False
    )
