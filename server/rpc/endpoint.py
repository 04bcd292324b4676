"""A gRPC endpoint: address, limits, health, reflection. Knows no service of ours."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health  # type: ignore[attr-defined]
from grpc_reflection.v1alpha import reflection

from server.errors import FailedPrecondition, NotReady
from server.rpc.status import describe

_WHOLE_SERVER: Final = ""
_LAST_WORD_S: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Unary:
    """One request, one response.

    Attributes:
        request: The request's message class.
        call: Takes the request and the caller's deadline on the monotonic clock, or None.
    """

    request: type[Message]
    call: Callable[[Any, float | None], Awaitable[Message]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Streaming:
    """One request, a stream of responses; see `Unary`."""

    request: type[Message]
    call: Callable[[Any, float | None], AsyncIterator[Message]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service under its public name.

    Attributes:
        name: For example `inference.GRPCInferenceService`.
        methods: Rpc name → how it is called.
    """

    name: str
    methods: Mapping[str, Unary | Streaming]


class _Health(health.HealthServicer):  # type: ignore[misc]
    """Health checks whose watches end when the server stops: nobody may hold it up."""

    def __init__(self, stopping: asyncio.Event) -> None:
        super().__init__()
        self._stopping = stopping

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: N802
        watching = asyncio.ensure_future(super().Watch(request, context))
        stopped = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((watching, stopped), return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                watching.result()
            else:
                # What was set last is written before the stream ends.
                await asyncio.wait((watching,), timeout=_LAST_WORD_S)
        finally:
            for task in (watching, stopped):
                task.cancel()


class Endpoint:
    """Listens on one address and serves some services there."""

    def __init__(
        self,
        services: list[Service],
        pool: DescriptorPool,
        *,
        max_message_bytes: int,
        before_each: Callable[[Any], None] | None = None,
    ) -> None:
        """Prepare to serve.

        Args:
            services: What to serve.
            pool: Their descriptors under their public names, for reflection.
            max_message_bytes: Largest message taken or given.
            before_each: Called with the context of each single answer's call, in its task.
        """
        self._server: Any = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_send_message_length", max_message_bytes),
                ("grpc.so_reuseport", 0),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
            ]
        )
        self._stopping = asyncio.Event()
        for service in services:
            handlers = {
                name: _handler(method, self._stopping, before_each)
                for name, method in service.methods.items()
            }
            self._server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(service.name, handlers),)
            )
        self._health = _Health(self._stopping)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._names = [service.name for service in services]
        health_name = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
        names = (*self._names, health_name, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server, pool=pool)
        self._listens = False
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listen; health says NOT_SERVING until `set_serving`.

        Raises:
            FailedPrecondition: The address is taken or not ours.
        """
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            self.port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise FailedPrecondition(
                f"cannot listen on {address}: it is in use or not an address of this machine; "
                "choose another port (0 takes any free one)"
            ) from error
        await self.set_serving(False)
        await self._server.start()
        self._listens = True

    async def set_serving(self, serving: bool) -> None:
        """Tell health checks whether requests are welcome."""
        status = (
            health_pb2.HealthCheckResponse.SERVING
            if serving
            else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        for name in (_WHOLE_SERVER, *self._names):
            await self._health.set(name, status)

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, end streams, let single answers finish within `grace_s`, then stop."""
        if not self._listens:
            return
        await self._health.enter_graceful_shutdown()
        self._stopping.set()
        await self._server.stop(grace_s)


def _handler(
    method: Unary | Streaming,
    stopping: asyncio.Event,
    before_each: Callable[[Any], None] | None,
) -> grpc.RpcMethodHandler[Any, Any]:
    def parse(content: bytes) -> Message | DecodeError:
        try:
            return method.request.FromString(content)
        except DecodeError as error:
            return error

    if isinstance(method, Unary):
        return grpc.unary_unary_rpc_method_handler(
            _unary(method) if before_each is None else _after(before_each, _unary(method)),
            request_deserializer=parse,
            response_serializer=_serialize,
        )
    return grpc.unary_stream_rpc_method_handler(
        _streaming(method, stopping),
        request_deserializer=parse,
        response_serializer=_serialize,
    )


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def _unary(method: Unary) -> Callable[[Any, Any], Awaitable[Message]]:
    async def handle(request: Any, context: Any) -> Message:
        if isinstance(request, DecodeError):
            await _refuse_bytes(method, context)
        try:
            return await method.call(request, _deadline(context))
        except Exception as error:
            code, text = describe(error)
            await context.abort(code, text)
            raise

    return handle


def _after(
    before_each: Callable[[Any], None], handle: Callable[[Any, Any], Awaitable[Message]]
) -> Callable[[Any, Any], Awaitable[Message]]:
    async def handle_after(request: Any, context: Any) -> Message:
        before_each(context)
        return await handle(request, context)

    return handle_after


def _streaming(
    method: Streaming, stopping: asyncio.Event
) -> Callable[[Any, Any], AsyncIterator[Message]]:
    async def handle(request: Any, context: Any) -> AsyncIterator[Message]:
        if isinstance(request, DecodeError):
            await _refuse_bytes(method, context)
        try:
            async for message in _until(stopping, method.call(request, _deadline(context))):
                yield message
        except Exception as error:
            code, text = describe(error)
            await context.abort(code, text)

    return handle


async def _until(
    stopping: asyncio.Event, messages: AsyncIterator[Message]
) -> AsyncIterator[Message]:
    """The messages, until they end or the server stops.

    Raises:
        NotReady: The server stops.
    """
    stopped = asyncio.ensure_future(stopping.wait())
    try:
        while True:
            following = asyncio.ensure_future(_next(messages))
            await asyncio.wait((following, stopped), return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                following.cancel()
                raise NotReady("the server is stopping; ask its successor")
            message = following.result()
            if message is None:
                return
            yield message
    finally:
        stopped.cancel()


async def _next(messages: AsyncIterator[Message]) -> Message | None:
    return await anext(messages, None)


async def _refuse_bytes(method: Unary | Streaming, context: Any) -> None:
    name = method.request.DESCRIPTOR.name
    await context.abort(
        grpc.StatusCode.INVALID_ARGUMENT, f"the request's bytes are not a {name} message"
    )


def _deadline(context: Any) -> float | None:
    remaining = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining
