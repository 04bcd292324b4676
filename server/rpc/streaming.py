"""ModelStreamInfer: many requests over one call, answered in the order they came.

The order is Triton's for models that give one answer a request. Requests of a stream run at the
same time, so those that wait for one model join into one run; what bounds them is how many, and
how many bytes of them, may be in flight before the stream is read no further.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final

from server.pb import open_inference_pb2 as pb
from server.rpc.forms import InferenceRequest
from server.rpc.status import describe

Infer = Callable[[InferenceRequest, float | None], Coroutine[Any, Any, bytes]]

_FINAL: Final = "triton_final_response"
_ERRORS_END_THE_STREAM: Final = ("triton_grpc_error", "true")


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLimits:
    """What one stream may hold; beyond it the stream is not read, which slows its sender.

    Attributes:
        requests: Requests read whose answers are not yet sent.
        request_bytes: Bytes of them; one more request is read while they are below.
    """

    requests: int = 64
    request_bytes: int = 64 << 20


STREAM_LIMITS: Final = StreamLimits()


class InferenceStream:
    """One call of ModelStreamInfer."""

    def __init__(
        self,
        infer: Infer,
        deadline: float | None,
        metadata: Mapping[str, str],
        limits: StreamLimits = STREAM_LIMITS,
    ) -> None:
        """Answer by `infer`, every request under the stream's `deadline`.

        Args:
            infer: Answers one request.
            deadline: When the stream's caller stops waiting, on the monotonic clock, or None.
            metadata: What came with the call; `triton_grpc_error: true` asks that the first
                request that fails ends the stream with its status.
            limits: What may be in flight.
        """
        self._infer = infer
        self._deadline = deadline
        self._limits = limits
        key, value = _ERRORS_END_THE_STREAM
        self._errors_end_the_stream = metadata.get(key) == value
        self._in_flight: deque[tuple[asyncio.Task[pb.ModelStreamInferResponse], int]] = deque()
        self._bytes = 0
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()

    async def answers(
        self, requests: AsyncIterator[InferenceRequest]
    ) -> AsyncGenerator[pb.ModelStreamInferResponse, None]:
        """One answer for each request; closing the iterator cancels what is in flight.

        Raises:
            HoneError: What ended the requests early, after what came before it was answered; or a
                request's own error where the caller wants it so.
        """
        reader = asyncio.create_task(self._read(requests))
        reader.add_done_callback(lambda _: self._arrived.set())
        try:
            while True:
                while self._in_flight:
                    task, size = self._in_flight[0]
                    yield await task
                    self._in_flight.popleft()
                    self._bytes -= size
                    self._room.set()
                if reader.done():
                    reader.result()
                    return
                self._arrived.clear()
                await self._arrived.wait()
        finally:
            unfinished = [reader, *(task for task, _ in self._in_flight)]
            for one in unfinished:
                one.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)

    async def _read(self, requests: AsyncIterator[InferenceRequest]) -> None:
        """Start every request as it comes."""
        async for request in requests:
            size = len(request.content)
            self._in_flight.append((asyncio.create_task(self._answer(request)), size))
            self._bytes += size
            self._arrived.set()
            while self._is_full():
                self._room.clear()
                await self._room.wait()

    def _is_full(self) -> bool:
        return (
            len(self._in_flight) >= self._limits.requests
            or self._bytes >= self._limits.request_bytes
        )

    async def _answer(self, request: InferenceRequest) -> pb.ModelStreamInferResponse:
        answer = pb.ModelStreamInferResponse()
        try:
            answer.infer_response.ParseFromString(await self._infer(request, self._deadline))
        except Exception as error:
            if self._errors_end_the_stream:
                raise
            _, answer.error_message = describe(error)
            answer.infer_response.id = request.id
            answer.infer_response.model_name = request.model_name
            answer.infer_response.model_version = request.model_version
        answer.infer_response.parameters[_FINAL].bool_param = True
        return answer
