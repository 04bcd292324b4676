"""Connections that no honest client makes: each attack by name, larger or smaller.

An attack returns the sockets that it leaves open, so that a caller can look at the server while
they are, and close them. It never waits for the server, and does not mind when it hangs up.
"""

from __future__ import annotations

import gzip
import random
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from tests.support.http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    field_block,
    frame_bytes,
)

Attack = Callable[[str, int], list[socket.socket]]
INFER: Final = b"/inference.GRPCInferenceService/ModelInfer"
LIVE: Final = b"/inference.GRPCInferenceService/ServerLive"
STREAM: Final = b"/inference.GRPCInferenceService/ModelStreamInfer"
_HELLO: Final = PREFACE + frame_bytes(SETTINGS, b"")
_CONTINUED: Final = frame_bytes(CONTINUATION, b"\x10\x01a\x7f\x81\x7f" + b"v" * 16384, 0, 1)
_SEND_S: Final = 2.0
_AT_ONCE: Final = 64


@contextmanager
def under(attack: Attack, address: str, times: int) -> Iterator[None]:
    """Attack, and hang up at the end."""
    left = attack(address, times)
    try:
        yield
    finally:
        for one in left:
            one.close()


def opened(address: str) -> socket.socket:
    """A connection on which sending gives up after two seconds."""
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=_SEND_S)


def call(
    path: bytes = LIVE,
    body: bytes | None = b"\0\0\0\0\0",
    stream: int = 1,
    extra: Iterable[tuple[bytes, bytes]] = (),
    *,
    ends: bool = True,
) -> bytes:
    """The frames of a call; without a body it has only begun."""
    fields = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"hone"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        *extra,
    ]
    begun = frame_bytes(HEADERS, field_block(fields), END_HEADERS, stream)
    if body is None:
        return begun
    parts = [body[at : at + 16384] for at in range(0, len(body), 16384)] or [b""]
    flags = [0] * (len(parts) - 1) + [END_STREAM if ends else 0]
    return begun + b"".join(
        frame_bytes(DATA, part, flag, stream) for part, flag in zip(parts, flags, strict=True)
    )


def message(content: bytes, *, flag: int = 0, length: int | None = None) -> bytes:
    """A gRPC message; `length` is what it says of itself."""
    return struct.pack(">BI", flag, len(content) if length is None else length) + content


def _said(address: str, content: bytes) -> list[socket.socket]:
    """A connection on which `content` was said after the greeting, as far as it was taken."""
    connection = opened(address)
    with suppress(OSError):
        connection.sendall(_HELLO + content)
    return [connection]


def _each(address: str, contents: Iterable[bytes]) -> list[socket.socket]:
    """Every content on a connection of its own; the last few stay open."""
    left: list[socket.socket] = []
    for content in contents:
        left += _said(address, content)
        if len(left) > _AT_ONCE:
            left.pop(0).close()
    return left


def _random_bytes(address: str, times: int) -> list[socket.socket]:
    source = random.Random(1)
    return _each(address, (source.randbytes(source.randrange(1, 4096)) for _ in range(times)))


def _random_frames(address: str, times: int) -> list[socket.socket]:
    source = random.Random(2)

    def frames() -> bytes:
        return call() + b"".join(
            frame_bytes(
                source.randrange(12),
                source.randbytes(source.choice((0, 4, 5, 8, source.randrange(300)))),
                source.randrange(256),
                source.choice((0, 1, 1, 3, 5, source.randrange(1 << 32))),
            )
            for _ in range(source.randrange(1, 20))
        )

    return _each(address, (frames() for _ in range(times)))


def _broken_calls(address: str, times: int) -> list[socket.socket]:
    """Right calls in which a few bytes were changed, or the end cut off."""
    source = random.Random(3)

    def broken() -> bytes:
        content = bytearray(call(INFER, message(source.randbytes(40))))
        for _ in range(source.randrange(1, 6)):
            content[source.randrange(len(content))] = source.randrange(128)
        return bytes(content[: source.choice((len(content), source.randrange(len(content))))])

    return _each(address, (broken() for _ in range(times)))


def _half_open(address: str, times: int) -> list[socket.socket]:
    """Connections that stop somewhere before the end of their first call, and stay."""
    starts = (b"", PREFACE[:10], _HELLO, _HELLO + call(INFER, None))
    begun = _HELLO + call(INFER, message(b"abc", length=1000), ends=False)
    left = []
    for index in range(times):
        connection = opened(address)
        connection.sendall((*starts, begun)[index % 5])
        left.append(connection)
    return left


def _abrupt(address: str, times: int) -> list[socket.socket]:
    """Calls whose connection is reset at once."""
    for index in range(times):
        connection = opened(address)
        connection.sendall(_HELLO + call((LIVE, INFER, STREAM)[index % 3], message(b"")))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    return []


def _rapid_reset(path: bytes, *, whole: bool) -> Attack:
    """Calls that are reset as soon as they were made, as many as the server lets."""

    def attack(address: str, times: int) -> list[socket.socket]:
        reset = (0).to_bytes(3, "big") + b"\x08"
        left: list[socket.socket] = []
        for first in range(0, times, 500):
            left += _said(
                address,
                b"".join(
                    call(path, message(b"") if whole else None, stream)
                    + frame_bytes(RST_STREAM, reset, 0, stream)
                    for stream in range(1, 2 * min(500, times - first), 2)
                ),
            )
        return left

    return attack


def _many_fields(address: str, times: int) -> list[socket.socket]:
    """Calls with far more metadata than anybody takes."""
    fields = [(b"x-%d" % index, b"v" * 100) for index in range(120)]
    return _each(address, (call(extra=fields) for _ in range(times)))


def _endless_continuation(address: str, times: int) -> list[socket.socket]:
    head = field_block([(b":method", b"POST"), (b":path", LIVE)])
    return _said(address, frame_bytes(HEADERS, head, 0, 1) + _CONTINUED * times)


def _empty_continuation(address: str, times: int) -> list[socket.socket]:
    head = field_block([(b":method", b"POST"), (b":path", LIVE)])
    return _said(
        address, frame_bytes(HEADERS, head, 0, 1) + frame_bytes(CONTINUATION, b"", 0, 1) * times
    )


def _flow_control(address: str, times: int) -> list[socket.socket]:
    begun = call(INFER, None)
    most, nothing = (0x7FFFFFFF).to_bytes(4, "big"), bytes(4)
    contents = (
        frame_bytes(WINDOW_UPDATE, nothing),
        frame_bytes(WINDOW_UPDATE, most) * 2,
        begun + frame_bytes(WINDOW_UPDATE, nothing, 0, 1),
        begun + frame_bytes(WINDOW_UPDATE, most, 0, 1) * 2,
        frame_bytes(WINDOW_UPDATE, b"\1"),
        frame_bytes(DATA, b"stray"),
        frame_bytes(DATA, b"stray", 0, 7),
        begun + frame_bytes(DATA, b"x" * 16384, 0, 1) * 1000,
        begun + frame_bytes(DATA, b"x" * 70000, 0, 1),
        frame_bytes(SETTINGS, struct.pack(">HI", INITIAL_WINDOW_SIZE, 0xFFFFFFFF)),
        call() + frame_bytes(DATA, b"after the end", 0, 1),
        call() + call(),
        call(stream=2),
        call(stream=9) + call(stream=3),
    )
    return _each(address, (content for _ in range(times) for content in contents))


def _unread_answers(address: str, times: int) -> list[socket.socket]:
    """Calls whose answers may not be sent: the caller's window is closed."""
    closed = frame_bytes(SETTINGS, struct.pack(">HI", INITIAL_WINDOW_SIZE, 0))
    calls = (call(stream=stream) for stream in range(1, 2 * times, 2))
    return _said(address, closed + b"".join(calls))


def _bodies(address: str, times: int) -> list[socket.socket]:
    """Bodies that are no gRPC messages, or say what they are not."""
    bodies = (
        message(b"", length=0xFFFFFFFF),
        message(b"abc", length=0xFFFFFFFF),
        *(message(b"abc", flag=flag) for flag in (1, 2, 127, 255)),
        b"",
        b"\0",
        b"\0\0\0\0\5abc",
        message(b"") * 3,
        message(b"") + b"trailing",
        message(b"\xff" * 100),
    )
    encoded = [
        (message(gzip.compress(b"x" * 100)[:-9], flag=1), b"gzip"),
        (message(b"no gzip", flag=1), b"gzip"),
        (message(b"abc", flag=1), b"unheard-of"),
        (message(b"abc", flag=1), b"\xff\xfe"),
    ]
    calls = [call(INFER, body, ends=ends) for body in bodies for ends in (True, False)]
    calls += [call(INFER, body, extra=[(b"grpc-encoding", name)]) for body, name in encoded]
    return _each(address, (one for _ in range(times) for one in calls))


def _paths_not_text(address: str, times: int) -> list[socket.socket]:
    """Paths that are not UTF-8."""
    paths = (b"/\xff\xfe", b"/inference.GRPCInferenceService/\x96", INFER + b"\xc3")
    return _each(address, (call(path) for _ in range(times) for path in paths))


def _metadata(address: str, times: int) -> list[socket.socket]:
    """Paths, metadata and deadlines that are none."""
    paths = (b"", b"/", b"//", b"*", b"/a/b/c", b"/inference.GRPCInferenceService/" * 99)
    timeouts = (
        *(b"99999999H", b"99999999999S", b"-1S", b"", b"S", b"1", b"1X", b"0n", b"0H", b"1.5S"),
        *(b"1S ", b"\xff", b"+1S", b"999999999999999999999999999H"),
    )
    fields = (
        *((b"x-hone", value) for value in (b"\xff\xfe", b"", b"v" * 8000)),
        *((b"x-hone-bin", value) for value in (b"!!!", b"AAA", b"\xff")),
        *((b"content-type", value) for value in (b"", b"text/html", b"application/grpc-web")),
        *((b"Upper", b"1"), (b"te", b"gzip"), (b"connection", b"close"), (b"host", b"\xff")),
        *((b":path", LIVE), (b":unknown", b"1"), (b"content-length", b"-1")),
        *((b"content-length", b"99999999999999999999"), (b"grpc-accept-encoding", b"\xff,,,")),
    )
    calls = [call(path) for path in paths]
    calls += [call(extra=[(b"grpc-timeout", timeout)]) for timeout in timeouts]
    calls += [call(extra=[field]) for field in fields]
    return _each(address, (one for _ in range(times) for one in calls))


def _chatter(address: str, times: int) -> list[socket.socket]:
    """Questions to the connection itself, whose answers nobody reads."""
    settings = frame_bytes(SETTINGS, struct.pack(">HI", INITIAL_WINDOW_SIZE, 65535))
    return [
        *_said(address, frame_bytes(PING, b"12345678") * times),
        *_said(address, settings * times),
        *_said(address, frame_bytes(SETTINGS, b"") * times),
    ]


def _other_protocols(address: str, times: int) -> list[socket.socket]:
    left: list[socket.socket] = []
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)
    for content in (
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        hello,
        b"\0" * 5000,
        b"PRI * HTTP/1.1\r\n",
    ):
        for _ in range(times):
            connection = opened(address)
            with suppress(OSError):
                connection.sendall(content)
            left.append(connection)
    return left


ATTACKS: Final[dict[str, tuple[Attack, int, int]]] = {
    "random bytes": (_random_bytes, 50, 1000),
    "random frames": (_random_frames, 50, 2000),
    "calls with changed bytes": (_broken_calls, 100, 4000),
    "connections that never finish": (_half_open, 100, 2000),
    "connections reset mid-call": (_abrupt, 100, 1500),
    "rapid reset of calls begun": (_rapid_reset(INFER, whole=False), 1000, 10_000),
    "rapid reset of whole calls": (_rapid_reset(LIVE, whole=True), 1000, 10_000),
    "rapid reset of streams": (_rapid_reset(STREAM, whole=False), 200, 2000),
    "too much metadata": (_many_fields, 5, 300),
    "endless CONTINUATION": (_endless_continuation, 1000, 10_000),
    "empty CONTINUATION": (_empty_continuation, 5000, 100_000),
    "wrong flow control": (_flow_control, 1, 10),
    "answers nobody reads": (_unread_answers, 500, 1000),
    "bodies that are no messages": (_bodies, 1, 20),
    "paths that are no text": (_paths_not_text, 5, 500),
    "metadata that is none": (_metadata, 1, 20),
    "endless PING and SETTINGS": (_chatter, 5000, 100_000),
    "other protocols": (_other_protocols, 5, 50),
}
"""Name → the attack, how often for a quick look, and how often in earnest."""
