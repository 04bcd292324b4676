"""Calls answered without a task: a coroutine is stepped where its events arrive.

A task costs a request of a small model a tenth of its processor time: it is entered into a weak
set, copies a context and waits a turn of the loop before it begins.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

import grpc
from google.protobuf.message import Message

from server.rpc.status import describe

_AMPLE_S: Final = 0.05
"""Who waits for at least so long gets an answer in time that is worked out at once."""


Together = Callable[[Sequence[Any]], Sequence[bytes | None]]
"""Answers requests that came together; None for each that is to be answered by itself."""


class DirectMethod(NamedTuple):
    """One request, one answer, by a coroutine that awaits futures and locks only.

    What needs a task of its own, such as `asyncio.timeout`, fails in it.

    Attributes:
        read: Makes of a request's bytes what `call` takes, or raises DecodeError.
        call: Takes the request and the caller's deadline on the monotonic clock, or None.
        not_a_message: What a caller is told whose bytes are no such message.
        together: Asked first about what came in one burst, from callers who are in no hurry.
    """

    read: Callable[[bytes], Any]
    call: Callable[[Any, float | None], Coroutine[Any, Any, Message | bytes]]
    not_a_message: str
    together: Together | None = None


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


def begin(
    method: DirectMethod, arrivals: Sequence[Arrival], server: Answering
) -> Iterator[DirectCall]:
    """Start to answer calls that came together; what became of those that are not over yet."""
    if method.together is not None:
        arrivals = _answered_together(method.together, arrivals, server)
    for call_id, request, deadline in arrivals:
        call = DirectCall(call_id, method.call(request, deadline), server)
        if not call.step():
            yield call


def _answered_together(
    together: Together, arrivals: Sequence[Arrival], server: Answering
) -> list[Arrival]:
    """Answer what can be answered together; the others."""
    in_hurry = time.monotonic() + _AMPLE_S
    left: list[Arrival] = []
    calm: list[Arrival] = []
    for arrival in arrivals:
        is_calm = arrival.deadline is None or arrival.deadline > in_hurry
        (calm if is_calm else left).append(arrival)
    try:
        answers = together([arrival.request for arrival in calm])
    except Exception as error:
        code, text = describe(error)
        for arrival in calm:
            server.refuse(arrival.call_id, code, text)
        return left
    for arrival, answer in zip(calm, answers, strict=True):
        if answer is None:
            left.append(arrival)
        else:
            server.answer(arrival.call_id, answer)
    return left


class DirectCall:
    """A call under way, as little of a task as it takes."""

    __slots__ = (
        *("_coroutine", "call_id", "_has_to_tell", "_is_gone", "_over", "_server", "_waits_for"),
    )

    def __init__(
        self, call_id: int, coroutine: Coroutine[Any, Any, Message | bytes], server: Answering
    ) -> None:
        self.call_id = call_id
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
            self._server.answer(self.call_id, data)
        except asyncio.CancelledError:
            if self._is_gone:
                self._server.forget(self.call_id)
            else:
                self._server.refuse(self.call_id, grpc.StatusCode.CANCELLED, "Cancelled")
        except Exception as error:
            self._server.refuse(self.call_id, *describe(error))
        else:
            self._waits_for = future
            if future is None:  # it only lets others go first
                asyncio.get_running_loop().call_soon(self.step)
            else:
                future._asyncio_future_blocking = False
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
