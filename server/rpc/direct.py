"""Calls answered without a task: a coroutine is stepped where its events arrive.

A task costs a request of a small model a tenth of its processor time: it is entered into a weak
set, copies a context and waits a turn of the loop before it begins.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

import grpc
from google.protobuf.message import Message

from server.prompt import Prompt
from server.rpc.status import describe

_log = logging.getLogger(__name__)

_AMPLE_S: Final = 0.05
"""Who waits for at least so long gets an answer in time that is worked out at once."""


class AnswersTogether(Protocol):
    """Who can answer several requests that came in one burst better than one after another."""

    def takes(self, request: Any) -> bool:
        """Whether it is to be asked about a request at all."""

    def answer(self, requests: Sequence[Any]) -> Sequence[bytes | None]:
        """The answer to each; None for those that go the usual way."""


class DirectMethod(NamedTuple):
    """One request, one answer, by a coroutine that awaits futures and locks only.

    What needs a task of its own, such as `asyncio.timeout`, fails in it.

    Attributes:
        read: Makes of a request's bytes what `call` takes, or raises DecodeError.
        call: Takes the request and the caller's deadline on the monotonic clock, or None.
        not_a_message: What a caller is told whose bytes are no such message.
        together: Asked about what came in one burst, from callers who are in no hurry.
    """

    read: Callable[[bytes], Any]
    call: Callable[[Any, float | None], Coroutine[Any, Any, Message | bytes]]
    not_a_message: str
    together: AnswersTogether | None = None


@runtime_checkable
class AnswersDirectly(Protocol):
    """A server that can."""

    def answer_directly(self, methods: Mapping[str, DirectMethod]) -> None:
        """Answer methods that were added, by their paths, the short way."""


class Answering(Protocol):
    """Who sends answers."""

    def answer(self, call_id: int, data: bytes) -> None:
        """Send an answer; the call is over."""

    def refuse(self, call_id: int, code: grpc.StatusCode, text: str) -> None:
        """Send an error; the call is over."""

    def forget(self, call_id: int) -> None:
        """The call is over, and nobody waits for an answer."""


class Arrival(NamedTuple):
    """A call that came.

    Attributes:
        call_id: The transport's.
        request: What `DirectMethod.read` made of its bytes.
        deadline: When its caller stops waiting, on the monotonic clock; None: never.
    """

    call_id: int
    request: Any
    deadline: float | None


def begin(method: DirectMethod, arrival: Arrival, server: Answering) -> DirectCall | None:
    """Start to answer a call; what it became if it is not over yet."""
    call_id, request, deadline = arrival
    call = DirectCall(call_id, method.call(request, deadline), server)
    return None if call.step() else call


def can_wait(method: DirectMethod, arrival: Arrival) -> bool:
    """Whether a call may be answered together with what comes behind it in the same burst."""
    together, deadline = method.together, arrival.deadline
    if together is None or not together.takes(arrival.request):
        return False
    return deadline is None or deadline > time.monotonic() + _AMPLE_S


def answer_together(
    together: AnswersTogether, arrivals: Sequence[Arrival], server: Answering
) -> list[Arrival]:
    """Answer the calls of a burst that can be answered together; the others."""
    try:
        answers = together.answer([arrival.request for arrival in arrivals])
    except Exception:
        _log.exception("a burst of requests is answered one by one")
        return list(arrivals)
    left = []
    for arrival, answer in zip(arrivals, answers, strict=True):
        if answer is None:
            left.append(arrival)
        else:
            server.answer(arrival.call_id, answer)
    return left


class DirectCall:
    """A call under way, as little of a task as it takes."""

    __slots__ = (
        *("_call_id", "_coroutine", "_has_to_tell", "_is_gone", "_over", "_server", "_waits_for"),
    )

    def __init__(
        self, call_id: int, coroutine: Coroutine[Any, Any, Message | bytes], server: Answering
    ) -> None:
        self._call_id = call_id
        self._coroutine = coroutine
        self._server = server
        self._is_gone = False
        self._has_to_tell = False
        """Whether the coroutine has to be told that nobody waits: what it waited for could not."""
        self._waits_for: asyncio.Future[Any] | None = None
        self._over: asyncio.Future[None] | None = None

    @property
    def task(self) -> asyncio.Future[None]:
        """Done when the call is over; to cancel it cancels the call."""
        if self._over is None:
            self._over = asyncio.get_running_loop().create_future()
            self._over.add_done_callback(self._cancel_too)
        return self._over

    def cancel(self) -> None:
        """Nobody waits for the answer any more."""
        self._is_gone = True
        self._has_to_tell = self._waits_for is None or not self._waits_for.cancel()

    def step(self) -> bool:
        """Go on until the coroutine waits for something; whether the call is over."""
        try:
            if self._has_to_tell:
                self._has_to_tell = False
                future = self._coroutine.throw(asyncio.CancelledError())
            else:
                future = self._coroutine.send(None)
        except StopIteration as stop:
            answer = stop.value
            data = answer if isinstance(answer, bytes) else answer.SerializeToString()
            self._server.answer(self._call_id, data)
        except asyncio.CancelledError:
            if self._is_gone:
                self._server.forget(self._call_id)
            else:
                self._server.refuse(self._call_id, grpc.StatusCode.CANCELLED, "Cancelled")
        except Exception as error:
            self._server.refuse(self._call_id, *describe(error))
        else:
            self._waits_for = future
            if future is None:  # it only lets others go first
                asyncio.get_running_loop().call_soon(self.step)
                return False
            future._asyncio_future_blocking = False
            if isinstance(future, Prompt):
                future.go_on = self.step
            else:
                future.add_done_callback(self._wake)
            return False
        self._waits_for = None
        if self._over is not None and not self._over.done():
            self._over.set_result(None)
        return True

    def _wake(self, future: asyncio.Future[Any]) -> None:
        self.step()

    def _cancel_too(self, over: asyncio.Future[None]) -> None:
        if over.cancelled():
            self.cancel()
