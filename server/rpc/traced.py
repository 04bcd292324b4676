"""ModelInfer with a span around each request. Only in use when the server traces."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from server.rpc.forms import InferenceRequest
from server.rpc.status import code_of
from server.timeline import Timeline

if TYPE_CHECKING:
    from server.tracing import Tracing

_Answer = TypeVar("_Answer")
_metadata: ContextVar[Iterable[tuple[str, str | bytes]]] = ContextVar("metadata", default=())


def keep_metadata(context: Any) -> None:
    """Keep a call's metadata for the handler that follows in the same task."""
    _metadata.set(tuple(context.invocation_metadata() or ()))


def traced(
    infer: Callable[
        [InferenceRequest, float | None, Timeline | None], Coroutine[Any, Any, _Answer]
    ],
    tracing: Tracing,
) -> Callable[[InferenceRequest, float | None], Coroutine[Any, Any, _Answer]]:
    """`infer`, each sampled request inside its span; see `keep_metadata`."""

    async def call(request: InferenceRequest, deadline: float | None) -> _Answer:
        begun = tracing.begin(_metadata.get(), model=request.model_name, request_id=request.id)
        if begun is None:
            return await infer(request, deadline, None)
        code = grpc.StatusCode.OK
        try:
            return await infer(request, deadline, begun.timeline)
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            raise
        except Exception as error:
            code = code_of(type(error)) or grpc.StatusCode.INTERNAL
            raise
        finally:
            begun.end(code.name)

    return call
