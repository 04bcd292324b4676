"""The native transport's server, without two faults that version 0.5 has, and with a short way."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from pygrpc_native import EVENT_CANCEL, NativeGrpcFront
from pygrpc_native.aio import Server

from server.rpc.direct import (
    Arrival,
    DirectCall,
    DirectMethod,
    answer_together,
    begin,
    can_wait,
)
from server.rpc.status import describe

_LOOK_EVERY_S: Final = 0.05
_LOOKS: Final = 3
"""So often in a row nothing is left to send before an answer counts as sent."""

_LONGEST_LOOK_S: Final = 5.0
_TABLES: Final = ("/proc/net/tcp", "/proc/net/tcp6")


class NativeServer(Server):
    """Forgets calls that were cancelled at once, and sends its last answers before it stops.

    A call that is cancelled before its handler's first step has a task that ends without having
    run, and with it what would have taken the call out of the server's table: 17,000 were still
    held after 92,000 cancellations. And `stop` closes the connections as soon as the handlers are
    done: of answers given in the last milliseconds some were never sent.

    Methods that `answer_directly` names are answered without the library's task, context and
    chain of coroutines, 10 µs a call.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._direct: dict[str, DirectMethod] = {}
        self._directly: list[DirectMethod | None] = []
        """By method id."""
        self._under_way: dict[int, Any] = self._calls  # the library's, and those of ours

    def answer_directly(self, methods: Mapping[str, DirectMethod]) -> None:
        """Answer methods that were added, by their paths, the short way; before `start`."""
        self._direct.update(methods)

    async def start(self) -> None:
        """Begin to accept calls."""
        await super().start()
        self._directly = [self._direct.get(path) for path, _ in self._table]

    def add_insecure_port(self, address: str) -> int:
        """Listen on `address`; see `grpc.aio.Server`."""
        port = super().add_insecure_port(address)
        assert self._front is not None
        self._open_front: Any = _PatientFront(self._front, port)
        self._front = self._open_front  # type: ignore[assignment]
        return port

    def _on_events(self, events: list[tuple[Any, ...]]) -> None:
        burst: dict[DirectMethod, list[Arrival]] = {}
        for event in events:
            kind, call_id, method_id, content, _, details = event
            if kind == EVENT_CANCEL:
                self._answer_together(burst)  # it may be among them
                burst = {}
                self._cancel(call_id)
            elif self._stopping or (method := self._directly[method_id]) is None:
                super()._on_events([event])
            elif (arrival := self._read(method, call_id, content, details[2])) is not None:
                if can_wait(method, arrival):
                    burst.setdefault(method, []).append(arrival)
                else:
                    self._begin(method, arrival)
        self._answer_together(burst)

    def _read(
        self, method: DirectMethod, call_id: int, content: bytes, remaining_s: float | None
    ) -> Arrival | None:
        """A call whose request can be read; others are refused."""
        most = self._receive_limit
        if most is not None and len(content) > most:
            text = f"SERVER: Received message larger than max ({len(content)} vs. {most})"
            self.refuse(call_id, grpc.StatusCode.RESOURCE_EXHAUSTED, text)
            return None
        try:
            request = method.read(content)
        except DecodeError:
            self.refuse(call_id, grpc.StatusCode.INVALID_ARGUMENT, method.not_a_message)
            return None
        except Exception as error:
            self.refuse(call_id, *describe(error))
            return None
        deadline = None if remaining_s is None else time.monotonic() + remaining_s
        return Arrival(call_id, request, deadline)

    def _answer_together(self, burst: Mapping[DirectMethod, Sequence[Arrival]]) -> None:
        for method, arrivals in burst.items():
            assert method.together is not None, "who can wait can be answered together"
            for arrival in answer_together(method.together, arrivals, self):
                self._begin(method, arrival)

    def _begin(self, method: DirectMethod, arrival: Arrival) -> None:
        call = begin(method, arrival, self)
        if call is not None:
            self._under_way[arrival.call_id] = call

    def answer(self, call_id: int, data: bytes) -> None:
        """Send an answer; the call is over."""
        self._under_way.pop(call_id, None)
        most = self._send_limit
        if most is not None and len(data) > most:
            text = f"SERVER: Sent message larger than max ({len(data)} vs. {most})"
            self.refuse(call_id, grpc.StatusCode.RESOURCE_EXHAUSTED, text)
            return
        self._open_front.respond(call_id, data)

    def refuse(self, call_id: int, code: grpc.StatusCode, text: str) -> None:
        """Send an error; the call is over."""
        self._under_way.pop(call_id, None)
        self._open_front.fail(call_id, code.value[0], text)

    def forget(self, call_id: int) -> None:
        """The call is over, and nobody waits for an answer."""
        self._under_way.pop(call_id, None)

    def _cancel(self, call_id: int) -> None:
        call = self._under_way.get(call_id)
        if call is None:
            return
        call.cancel()
        if not isinstance(call, DirectCall) and call.task is not None:
            call.task.add_done_callback(lambda task: self.forget(call_id))


class _PatientFront:
    """The transport's front, which is closed when what it was given to send is sent."""

    def __init__(self, front: NativeGrpcFront, port: int) -> None:
        self._front = front
        self._port = port
        self.respond = front.respond
        self.fail = front.fail

    def __getattr__(self, name: str) -> Any:
        return getattr(self._front, name)

    def close(self) -> None:
        """Close the connections. Blocks for seconds at most; who reads slower loses the rest."""
        end, quiet = time.monotonic() + _LONGEST_LOOK_S, 0
        while quiet < _LOOKS and time.monotonic() < end:
            time.sleep(_LOOK_EVERY_S)
            quiet = 0 if _unsent_bytes(self._port) else quiet + 1
        self._front.close()


def _unsent_bytes(port: int) -> int:
    """What the kernel has still to send on this machine's connections at `port`."""
    unsent = 0
    for table in _TABLES:
        try:
            lines = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == port:
                unsent += int(fields[4].partition(":")[0], 16)
    return unsent
