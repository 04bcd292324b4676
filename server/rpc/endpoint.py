"""A gRPC endpoint: address, limits, health, reflection. Knows no service of ours."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health  # type: ignore[attr-defined]
from grpc_reflection.v1alpha import reflection

from optimizers.contract.documents import shown
from server.errors import FailedPrecondition, InvalidRequest, NotReady
from server.rpc.direct import AnswersDirectly, AnswersTogether, DirectMethod
from server.rpc.status import describe

_Answer = TypeVar("_Answer")
_WHOLE_SERVER: Final = ""
_LAST_WORD_S: Final = 0.1
_NO_DEADLINE_S: Final = 1e9
"""A transport that knows no None says so with more seconds than anybody waits."""

_COMPRESSION: Final = "response-compression"
_ALGORITHMS: Final = {"gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}


@dataclass(frozen=True, slots=True, kw_only=True)
class Unary:
    """One request, one response.

    Attributes:
        request: The request's message class.
        call: Takes the request and the caller's deadline on the monotonic clock, or None; gives
            the response or its bytes.
        read: Makes of a request's bytes what `call` takes, or raises DecodeError; None: a message.
        is_direct: Whether `call` is a coroutine function that fits `DirectMethod`.
        together: As in `DirectMethod`.
    """

    request: type[Message]
    call: Callable[[Any, float | None], Coroutine[Any, Any, Message | bytes]]
    read: Callable[[bytes], Any] | None = None
    is_direct: bool = False
    together: AnswersTogether | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Streaming:
    """One request, a stream of responses; see `Unary`."""

    request: type[Message]
    call: Callable[[Any, float | None], AsyncIterator[Message]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplex:
    """A stream of requests, a stream of responses.

    Attributes:
        request: The class of each request.
        call: Takes the requests, the caller's deadline as in `Unary`, and the call's metadata. The
            requests end when the caller has sent all of them, and raise what ended them early:
            InvalidRequest for bytes that are no message, NotReady when the server stops.
        read: As in `Unary`.
    """

    request: type[Message]
    call: Callable[
        [AsyncIterator[Any], float | None, Mapping[str, str]], AsyncGenerator[Message, None]
    ]
    read: Callable[[bytes], Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service under its public name.

    Attributes:
        name: For example `inference.GRPCInferenceService`.
        methods: Rpc name → how it is called.
    """

    name: str
    methods: Mapping[str, Unary | Streaming | Duplex]


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
        server: Any,
        on_broken: Callable[[str], None],
        *,
        response_compression: bool = False,
        before_each: Callable[[Any], None] | None = None,
    ) -> None:
        """Prepare to serve.

        Args:
            services: What to serve.
            pool: Their descriptors under their public names, for reflection.
            server: What carries the calls; see `new_server`.
            on_broken: Told why, when calls are accepted no more though nobody called `stop`.
            response_compression: Whether a single answer is compressed for a caller whose metadata
                asks for it; to look costs each call some 3 µs.
            before_each: Called with the context of each call of a `Unary` or `Duplex`, in the task
                that handles it.
        """
        self._server = server
        self._stopping = asyncio.Event()
        for service in services:
            handlers = {
                name: _handler(method, self._stopping, before_each, response_compression)
                for name, method in service.methods.items()
            }
            self._server.add_registered_method_handlers(service.name, handlers)
            if before_each is None and isinstance(self._server, AnswersDirectly):
                self._server.answer_directly(_direct(service))
        self._health = _Health(self._stopping)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._names = [service.name for service in services]
        health_name = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
        names = (*self._names, health_name, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server, pool=pool)
        self._listens = False
        self.port = 0
        self._on_broken = on_broken

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
        before = asyncio.all_tasks()
        await self._server.start()
        for task in asyncio.all_tasks() - before:
            task.add_done_callback(self._look_why_it_ended)
        self._listens = True

    def _look_why_it_ended(self, task: asyncio.Task[Any]) -> None:
        """A task of the server's own is over; what it raised would be told to nobody."""
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._stopping.is_set():
            self._on_broken(f"port {self.port} accepts no more calls: {error!r}")

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
    method: Unary | Streaming | Duplex,
    stopping: asyncio.Event,
    before_each: Callable[[Any], None] | None,
    response_compression: bool,
) -> grpc.RpcMethodHandler[Any, Any]:
    read = _reader(method)

    def parse(content: bytes) -> Any:
        try:
            return read(content)
        except DecodeError as error:
            return error

    if isinstance(method, Unary):
        return grpc.unary_unary_rpc_method_handler(
            _after(before_each, _unary(method, response_compression)),
            request_deserializer=parse,
            response_serializer=_serialize,
        )
    if isinstance(method, Duplex):
        return grpc.stream_stream_rpc_method_handler(
            _after(before_each, _duplex(method, stopping)),
            request_deserializer=parse,
            response_serializer=_serialize,
        )
    return grpc.unary_stream_rpc_method_handler(
        _streaming(method, stopping),
        request_deserializer=parse,
        response_serializer=_serialize,
    )


def _reader(method: Unary | Streaming | Duplex) -> Callable[[bytes], Any]:
    read = None if isinstance(method, Streaming) else method.read
    return read or method.request.FromString


def _direct(service: Service) -> dict[str, DirectMethod]:
    return {
        f"/{service.name}/{name}": DirectMethod(
            _reader(method), method.call, _not_a_message(method.request), method.together
        )
        for name, method in service.methods.items()
        if isinstance(method, Unary) and method.is_direct
    }


def _serialize(message: Message | bytes) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()


def _unary(
    method: Unary, response_compression: bool
) -> Callable[[Any, Any], Awaitable[Message | bytes]]:
    async def handle(request: Any, context: Any) -> Message | bytes:
        if isinstance(request, DecodeError):
            await _refuse_bytes(method, context)
        try:
            if not response_compression or (algorithm := _algorithm(context)) is None:
                return await method.call(request, _deadline(context))
            response = await method.call(request, _deadline(context))
            # gRPC looks at the algorithm where initial metadata is sent, and only if we send it.
            context.set_compression(algorithm)
            await context.send_initial_metadata(())
            return response
        except Exception as error:
            code, text = describe(error)
            await context.abort(code, text)
            raise

    return handle


def _algorithm(context: Any) -> grpc.Compression | None:
    """How a call's answer is to be compressed; None when its caller does not say.

    Raises:
        InvalidRequest: The caller names no algorithm that is known.
    """
    for key, value in context.invocation_metadata():
        if key == _COMPRESSION:
            if value not in _ALGORITHMS:
                raise InvalidRequest(
                    f"metadata '{_COMPRESSION}' must be one of {', '.join(_ALGORITHMS)}, "
                    f"got {shown(value)}"
                )
            return _ALGORITHMS[value]
    return None


def _after(
    before_each: Callable[[Any], None] | None, handle: Callable[[Any, Any], Awaitable[_Answer]]
) -> Callable[[Any, Any], Awaitable[_Answer]]:
    if before_each is None:
        return handle

    async def handle_after(request: Any, context: Any) -> _Answer:
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


def _duplex(
    method: Duplex, stopping: asyncio.Event
) -> Callable[[AsyncIterator[Any], Any], Awaitable[None]]:
    async def read(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in _until(stopping, requests):
            if isinstance(request, DecodeError):
                raise InvalidRequest(_not_a_message(method.request))
            yield request

    async def handle(requests: AsyncIterator[Any], context: Any) -> None:
        metadata = dict(context.invocation_metadata())
        answers = method.call(read(requests), _deadline(context), metadata)
        try:
            async with aclosing(answers):
                async for answer in answers:
                    await context.write(answer)
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
    following: asyncio.Future[Message | None] = stopped.get_loop().create_future()
    try:
        while True:
            following = asyncio.ensure_future(_next(messages))
            await asyncio.wait((following, stopped), return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                raise NotReady("the server is stopping; ask its successor")
            message = following.result()
            if message is None:
                return
            yield message
    finally:
        stopped.cancel()
        following.cancel()


async def _next(messages: AsyncIterator[Message]) -> Message | None:
    return await anext(messages, None)


async def _refuse_bytes(method: Unary | Streaming, context: Any) -> None:
    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, _not_a_message(method.request))


def _not_a_message(request: type[Message]) -> str:
    return f"the request's bytes are not a {request.DESCRIPTOR.name} message"


def _deadline(context: Any) -> float | None:
    remaining = context.time_remaining()
    if remaining is None or remaining > _NO_DEADLINE_S:
        return None
    return time.monotonic() + float(remaining)
