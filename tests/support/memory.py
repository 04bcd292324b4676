"""Shared memory objects as a client makes them: plain files below /dev/shm."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from server.pb import open_inference_pb2 as pb

DIRECTORY = Path("/dev/shm")


def fresh_key() -> str:
    return f"test_{os.getpid()}_{secrets.token_hex(4)}"


@contextmanager
def shared_object(content: bytes) -> Iterator[Path]:
    """An object that holds `content`; its file."""
    path = DIRECTORY / fresh_key()
    path.write_bytes(content)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def point(
    tensor: pb.ModelInferRequest.InferInputTensor | pb.ModelInferRequest.InferRequestedOutputTensor,
    region: str,
    byte_size: int,
    offset: int | None = None,
) -> None:
    """Say in a tensor's parameters that it lies in `region`."""
    tensor.parameters["shared_memory_region"].string_param = region
    tensor.parameters["shared_memory_byte_size"].int64_param = byte_size
    if offset is not None:
        tensor.parameters["shared_memory_offset"].int64_param = offset
