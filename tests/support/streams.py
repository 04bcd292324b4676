"""A raw ModelStreamInfer call: requests in, answers out, as the wire has them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc

from server.pb import open_inference_pb2 as pb

PATH = "/inference.GRPCInferenceService/ModelStreamInfer"


def serialize(request: pb.ModelInferRequest | bytes) -> bytes:
    return request if isinstance(request, bytes) else request.SerializeToString()


@asynccontextmanager
async def stream(
    address: str, *, timeout: float = 30, metadata: Sequence[tuple[str, str]] = ()
) -> AsyncIterator[Any]:
    """An open stream: `write`, `read`, `done_writing`, `cancel`, `code`, `details`."""
    async with grpc.aio.insecure_channel(address) as channel:
        method: Any = channel.stream_stream(
            PATH,
            request_serializer=serialize,
            response_deserializer=pb.ModelStreamInferResponse.FromString,
        )
        yield method(timeout=timeout, metadata=metadata)


async def answers_of(call: Any) -> list[pb.ModelStreamInferResponse]:
    """Every answer until the stream ends; its code is then in `call`."""
    answers = []
    while isinstance(answer := await call.read(), pb.ModelStreamInferResponse):
        answers.append(answer)
    return answers
