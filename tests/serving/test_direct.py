"""Calls that the native transport answers without a task."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from pygrpc_native import EVENT_CANCEL

from server.pb import open_inference_pb2 as pb
from server.rpc.direct import AnswersTogether, DirectMethod
from server.rpc.native import NativeServer

PATH = "/echo.Echo/Say"
EVENT_CALL = 0
Call = Callable[[Any, float | None], Any]


@asynccontextmanager
async def serving(
    call: Call, together: AnswersTogether | None = None, **options: int
) -> AsyncIterator[tuple[NativeServer, Any]]:
    """A server whose only method is `call`, and what asks it for an answer's bytes."""

    async def the_long_way(request: bytes, context: Any) -> bytes:
        raise AssertionError("it is answered directly")

    server = NativeServer(options=list(options.items()))
    handler = grpc.unary_unary_rpc_method_handler(the_long_way)
    server.add_registered_method_handlers("echo.Echo", {"Say": handler})
    read = pb.ModelReadyRequest.FromString
    server.answer_directly({PATH: DirectMethod(read, call, "no such message", together)})
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            untyped: Any = channel
            yield server, untyped.unary_unary(PATH)
    finally:
        await server.stop(1)


async def test_what_ends_at_once_and_what_waits_is_answered() -> None:
    async def at_once(request: Any, deadline: float | None) -> bytes:
        return b"at once"

    async def later(request: Any, deadline: float | None) -> bytes:
        await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        return b"later"

    async with serving(at_once) as (_, say):
        assert await say(b"") == b"at once"
    async with serving(later) as (server, say):
        assert await asyncio.gather(*[say(b"") for _ in range(50)]) == [b"later"] * 50
        assert not server._calls


async def test_the_deadline_is_on_the_monotonic_clock() -> None:
    left: list[float | None] = []

    async def call(request: Any, deadline: float | None) -> bytes:
        left.append(None if deadline is None else deadline - asyncio.get_running_loop().time())
        return b""

    async with serving(call) as (_, say):
        await say(b"", timeout=5)
        await say(b"")
    first, second = left
    assert first is not None
    assert 4 < first < 5.1
    assert second is None


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"\xff", "INVALID_ARGUMENT"), (b"\x0a" * 200, "RESOURCE_EXHAUSTED")],
)
async def test_bytes_that_are_no_message_and_too_many_bytes_are_refused(
    content: bytes, code: str
) -> None:
    async def call(request: Any, deadline: float | None) -> bytes:
        return b""

    limit = {"grpc.max_receive_message_length": 100}
    async with serving(call, None, **limit) as (_, say):
        with pytest.raises(grpc.RpcError, match=code):
            await say(content)
        assert await say(b"") == b""


async def test_an_answer_that_is_too_large_is_an_error() -> None:
    async def call(request: Any, deadline: float | None) -> bytes:
        return bytes(200)

    limit = {"grpc.max_send_message_length": 100}
    async with serving(call, None, **limit) as (server, say):
        with pytest.raises(grpc.RpcError, match="RESOURCE_EXHAUSTED"):
            await say(b"")
        assert not server._calls


async def test_a_handler_that_is_cancelled_by_others_tells_its_caller() -> None:
    async def call(request: Any, deadline: float | None) -> bytes:
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.01, future.cancel)
        await future
        return b"never"

    async with serving(call) as (_, say):
        with pytest.raises(grpc.RpcError, match="CANCELLED"):
            await say(b"", timeout=5)


async def test_a_caller_who_goes_cancels_its_handler_whatever_that_waits_for() -> None:
    entered, ended = asyncio.Semaphore(0), []

    async def call(request: Any, deadline: float | None) -> bytes:
        entered.release()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            ended.append("cancelled")
            await asyncio.sleep(0)  # one more step after it was told
            raise
        return b"never"

    async with serving(call) as (server, say):
        calls = [say(b"") for _ in range(20)]
        for _ in calls:
            await entered.acquire()
        for one in calls:
            one.cancel()
        async with asyncio.timeout(5):
            while len(ended) < 20 or server._calls:
                await asyncio.sleep(0.01)


async def test_a_caller_who_goes_when_the_answer_is_there_leaves_nothing_behind() -> None:
    waiting: list[asyncio.Future[None]] = []
    ended = []

    async def call(request: Any, deadline: float | None) -> bytes:
        future = asyncio.get_running_loop().create_future()
        waiting.append(future)
        try:
            await future
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return b"never"

    async with serving(call) as (server, say):
        asking = say(b"")
        async with asyncio.timeout(5):
            while not waiting:
                await asyncio.sleep(0.01)
        [under_way] = server._calls.values()
        waiting[0].set_result(None)
        under_way.cancel()  # before the loop tells the handler of its result
        async with asyncio.timeout(5):
            while server._calls:
                await asyncio.sleep(0.01)
        asking.cancel()
    assert ended == ["cancelled"]


async def test_a_stop_lets_calls_finish_within_its_grace_and_cancels_the_rest() -> None:
    entered, ended = asyncio.Semaphore(0), []

    async def call(request: Any, deadline: float | None) -> bytes:
        entered.release()
        try:
            await asyncio.sleep(0.2 if deadline is None else 30)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return b"finished"

    async with serving(call) as (server, say):
        short, long = say(b""), say(b"", timeout=60)
        for _ in range(2):
            await entered.acquire()
        await server.stop(0.5)
        assert await short == b"finished"
        with pytest.raises(grpc.RpcError):
            await long
    assert ended == ["cancelled"]


async def test_what_nobody_expected_is_an_internal_error_with_a_number() -> None:
    async def call(request: Any, deadline: float | None) -> bytes:
        await asyncio.sleep(0.001)
        raise ZeroDivisionError("secret")

    async with serving(call) as (_, say):
        with pytest.raises(grpc.RpcError) as caught:
            await say(b"")
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in str(caught.value.details())


class Burst:
    """Calls that come in one burst, as the transport hands them over; what became of each."""

    def __init__(self, server: NativeServer) -> None:
        self.answers: dict[int, bytes] = {}
        self.errors: dict[int, tuple[int, str]] = {}
        self._server = server
        server._open_front = self

    def respond(self, call_id: int, data: bytes) -> None:
        self.answers[call_id] = data

    def fail(self, call_id: int, code: int, text: str) -> None:
        self.errors[call_id] = code, text

    async def is_answered(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.answers) < count:
                await asyncio.sleep(0)

    def comes(self, *names: str, remaining_s: float | None = None, gone: int | None = None) -> None:
        """Calls 0, 1, … each naming a model; the caller of `gone` leaves at once."""
        details = ("", (), remaining_s)
        events: list[tuple[Any, ...]] = []
        for call_id, name in enumerate(names):
            content = pb.ModelReadyRequest(name=name).SerializeToString()
            events.append((EVENT_CALL, call_id, 0, content, None, details))
        if gone is not None:
            events.append((EVENT_CANCEL, gone, 0, b"", None, None))
        self._server._on_events(events)


async def by_itself(request: Any, deadline: float | None) -> bytes:
    await asyncio.sleep(0)
    return f"{request.name} by itself".encode()


class ButForB:
    """Takes all but those named c, and answers all but those named b."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def takes(self, request: Any) -> bool:
        return bool(request.name != "c")

    def answer(self, requests: Sequence[Any]) -> list[bytes | None]:
        self.asked.append(len(requests))
        return [None if one.name == "b" else f"{one.name} together".encode() for one in requests]


class Breaks(ButForB):
    """Has a fault."""

    def answer(self, requests: Sequence[Any]) -> list[bytes | None]:
        raise ZeroDivisionError("secret")


async def test_what_came_in_one_burst_may_be_answered_together_and_the_rest_by_itself() -> None:
    together = ButForB()
    async with serving(by_itself, together) as (server, _):
        burst = Burst(server)
        burst.comes("a", "b", "c", "d")
        assert burst.answers == {0: b"a together", 3: b"d together"}
        await burst.is_answered(4)
        assert burst.answers[1] == b"b by itself"
        assert burst.answers[2] == b"c by itself"
        assert together.asked == [3]
        assert not server._calls


@pytest.mark.parametrize(("remaining_s", "is_together"), [(None, True), (5.0, True), (0.01, False)])
async def test_who_is_in_a_hurry_is_not_answered_together_with_others(
    remaining_s: float | None, is_together: bool
) -> None:
    async with serving(by_itself, ButForB()) as (server, _):
        burst = Burst(server)
        burst.comes("a", "d", remaining_s=remaining_s)
        await burst.is_answered(2)
        assert burst.answers[0] == (b"a together" if is_together else b"a by itself")


async def test_a_caller_who_is_gone_within_the_burst_is_not_worked_for() -> None:
    ended = []

    async def call(request: Any, deadline: float | None) -> bytes:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            ended.append(request.name)
            raise
        return b"never"

    async with serving(call, ButForB()) as (server, _):
        burst = Burst(server)
        burst.comes("a", "b", gone=1)
        async with asyncio.timeout(5):
            while not ended or server._calls:
                await asyncio.sleep(0.01)
        assert (burst.answers, burst.errors, ended) == ({0: b"a together"}, {}, ["b"])


async def test_where_answering_together_has_a_fault_each_is_answered_by_itself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(by_itself, Breaks()) as (server, _):
        burst = Burst(server)
        burst.comes("a", "b")
        await burst.is_answered(2)
        assert burst.answers == {0: b"a by itself", 1: b"b by itself"}
    assert "answered one by one" in caplog.text


async def test_bytes_that_cannot_be_read_take_nobody_with_them() -> None:
    async with serving(by_itself, ButForB()) as (server, _):
        burst = Burst(server)
        details = ("", (), None)
        good = pb.ModelReadyRequest(name="a").SerializeToString()
        contents = [good, b"\xff", good]
        server._on_events(
            [(EVENT_CALL, at, 0, content, None, details) for at, content in enumerate(contents)]
        )
        assert burst.answers == {0: b"a together", 2: b"a together"}
        assert burst.errors == {1: (grpc.StatusCode.INVALID_ARGUMENT.value[0], "no such message")}
