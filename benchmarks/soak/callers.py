"""A process of callers: they ask, cancel, give up, send rubbish, and count what comes back.

It prints its ledger as one line of JSON at the end; whatever is wrong it prints at once, so that
it is known even of a process that is killed.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc

from benchmarks.soak.questions import (
    LIMIT_BYTES,
    Question,
    fleeting,
    large,
    outputs_of,
    question,
)
from server.client import inference_request
from server.pb import open_inference_pb2 as pb

UNARY: Final = "/inference.GRPCInferenceService/ModelInfer"
STREAM: Final = "/inference.GRPCInferenceService/ModelStreamInfer"
CONNECTIONS: Final = 4
_CALLERS: Final = 6
_PATIENCE_S: Final = 30
_STREAM_LENGTH: Final = 20
_OVERHEAD_BYTES: Final = 200
_CHANNEL: Final = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
]
_BUSY: Final = {"RESOURCE_EXHAUSTED"}
_AWAY: Final = {"UNAVAILABLE", "NOT_FOUND"}


class Callers:
    """Callers over one connection."""

    def __init__(self, channel: Any, ledger: Counter[str], source: random.Random) -> None:
        self._unary = channel.unary_unary(UNARY)
        self._stream = channel.stream_stream(
            STREAM,
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelStreamInferResponse.FromString,
        )
        self._ledger = ledger
        self._source = source

    async def call(self, until: float) -> None:
        """One call after another, of any kind."""
        kinds: dict[Callable[[], Awaitable[None]], int] = {
            self._asked: 700,
            self._asked_with_short_deadline: 80,
            self._cancelled: 80,
            self._fleeting: 40,
            self._rubbish: 30,
            self._unknown: 10,
            self._streamed: 10,
            self._stream_cancelled: 5,
            self._large: 3,
            self._too_large: 2,
        }
        while time.monotonic() < until:
            [kind] = self._source.choices(list(kinds), list(kinds.values()))
            await kind()

    async def _asked(self) -> None:
        await self._checked("asked", question(self._source), _PATIENCE_S, _BUSY)

    async def _asked_with_short_deadline(self) -> None:
        timeout = self._source.choice((1e-4, 1e-3, 3e-3, 1e-2))
        codes = {"DEADLINE_EXCEEDED", *_BUSY}
        await self._checked("short deadline", question(self._source), timeout, codes)

    async def _fleeting(self) -> None:
        codes = _BUSY | _AWAY
        await self._checked("coming and going", fleeting(self._source), _PATIENCE_S, codes)

    async def _large(self) -> None:
        one = large(self._source, LIMIT_BYTES - _OVERHEAD_BYTES)
        await self._checked("near the limit", one, _PATIENCE_S, _BUSY)

    async def _too_large(self) -> None:
        content = large(self._source, LIMIT_BYTES + 1).request.SerializeToString()
        await self._refused("above the limit", content, {"RESOURCE_EXHAUSTED"})

    async def _rubbish(self) -> None:
        content = b"\xff" + self._source.randbytes(self._source.randrange(2000))
        await self._refused("rubbish", content, {"INVALID_ARGUMENT"})

    async def _unknown(self) -> None:
        content = inference_request("nobody", {}).SerializeToString()
        await self._refused("unknown model", content, {"NOT_FOUND"})

    async def _cancelled(self) -> None:
        content = question(self._source).request.SerializeToString()
        call = self._unary(content, timeout=_PATIENCE_S)
        await asyncio.sleep(self._source.choice((0, 0, 1e-4, 1e-3, 5e-3)))
        call.cancel()
        try:
            await call
        except asyncio.CancelledError:
            self._count("cancelled", "CANCELLED")
        except grpc.aio.AioRpcError as error:
            self._judge("cancelled", error, {"CANCELLED", *_BUSY})
        else:
            self._count("cancelled", "answered")

    async def _streamed(self) -> None:
        questions = [question(self._source) for _ in range(_STREAM_LENGTH)]
        call = self._stream(iter([one.request for one in questions]), timeout=_PATIENCE_S)
        answered = 0
        try:
            for one in questions:
                answer = await call.read()
                if not isinstance(answer, pb.ModelStreamInferResponse):
                    break
                answered += 1
                if answer.error_message:
                    self._wrong("streamed", answer.error_message)
                else:
                    self._check("streamed", one, answer.infer_response)
            if answered < len(questions) or isinstance(
                await call.read(), pb.ModelStreamInferResponse
            ):
                self._wrong("streamed", f"{answered} answers to {len(questions)} requests")
        except grpc.aio.AioRpcError as error:
            self._judge("streamed", error, set())

    async def _stream_cancelled(self) -> None:
        questions = [question(self._source) for _ in range(_STREAM_LENGTH)]
        call = self._stream(iter([one.request for one in questions]), timeout=_PATIENCE_S)
        try:
            for one in questions[: self._source.randrange(5)]:
                self._check("stream cancelled", one, (await call.read()).infer_response)
        except grpc.aio.AioRpcError as error:
            self._judge("stream cancelled", error, set())
        call.cancel()

    async def _checked(self, kind: str, one: Question, timeout: float, codes: set[str]) -> None:
        try:
            content = await self._unary(one.request.SerializeToString(), timeout=timeout)
        except grpc.aio.AioRpcError as error:
            self._judge(kind, error, codes)
        else:
            self._check(kind, one, pb.ModelInferResponse.FromString(content))

    async def _refused(self, kind: str, content: bytes, codes: set[str]) -> None:
        try:
            await self._unary(content, timeout=_PATIENCE_S)
        except grpc.aio.AioRpcError as error:
            self._judge(kind, error, codes)
        else:
            self._wrong(kind, "it was answered")

    def _check(self, kind: str, one: Question, response: pb.ModelInferResponse) -> None:
        if one.is_right(outputs_of(response)):
            self._count(kind, "right")
        else:
            self._wrong(kind, f"a wrong answer of {response.model_name}")

    def _judge(self, kind: str, error: grpc.aio.AioRpcError, codes: set[str]) -> None:
        name = error.code().name
        if name in codes:
            self._count(kind, name)
        else:
            self._count(kind, "LOST")
            print(f"LOST {kind}: {name} {error.details()}", flush=True)

    def _wrong(self, kind: str, text: str) -> None:
        self._count(kind, "WRONG")
        print(f"WRONG {kind}: {text}", flush=True)

    def _count(self, kind: str, outcome: str) -> None:
        self._ledger[f"{kind}|{outcome}"] += 1


async def call_all(address: str, seed: int, seconds: float) -> Counter[str]:
    """Callers on several connections for so long; what came back, `kind|outcome` → calls."""
    source = random.Random(seed)
    ledger: Counter[str] = Counter()
    until = time.monotonic() + seconds
    channels = [grpc.aio.insecure_channel(address, _CHANNEL) for _ in range(CONNECTIONS)]
    async with asyncio.TaskGroup() as group:
        for channel in channels:
            for _ in range(_CALLERS):
                callers = Callers(channel, ledger, random.Random(source.getrandbits(64)))
                group.create_task(callers.call(until))
    for channel in channels:
        await channel.close(None)
    return ledger


if __name__ == "__main__":
    print(json.dumps(asyncio.run(call_all(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))))
