"""As much of HTTP/2 as it takes to see what a server says about a connection."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, GOAWAY = 4, 6, 7
MAX_CONCURRENT_STREAMS = 3
_ACK = 1


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a connection."""

    kind: int
    flags: int
    payload: bytes

    @property
    def is_acknowledgement(self) -> bool:
        return bool(self.flags & _ACK)

    @property
    def settings(self) -> dict[int, int]:
        pairs = struct.iter_unpack(">HI", self.payload)
        return dict(pairs)


class Connection:
    """A client that acknowledges settings and does nothing else until it is told."""

    def __init__(self, address: str, timeout: float = 30.0) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=timeout)
        self._socket.sendall(_PREFACE + _frame(SETTINGS, b""))

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def frames(self) -> Iterator[Frame]:
        """What the server sends until it closes the connection."""
        while header := self._read(9):
            length = int.from_bytes(header[:3], "big")
            frame = Frame(header[3], header[4], self._read(length))
            if frame.kind == SETTINGS and not frame.is_acknowledgement:
                self._socket.sendall(_frame(SETTINGS, b"", _ACK))
            yield frame

    def next_of(self, kind: int, *, acknowledgement: bool = False) -> Frame:
        """The next frame of a kind; what comes before it is passed over."""
        for frame in self.frames():
            if frame.kind == kind and frame.is_acknowledgement is acknowledgement:
                return frame
        raise AssertionError(f"the connection was closed before a frame of kind {kind} came")

    def ping(self) -> None:
        self._socket.sendall(_frame(PING, b"12345678"))

    def acknowledge(self, ping: Frame) -> None:
        self._socket.sendall(_frame(PING, ping.payload, _ACK))

    def _read(self, length: int) -> bytes:
        content = b""
        while len(content) < length:
            part = self._socket.recv(length - len(content))
            if not part:
                return b""
            content += part
        return content


def _frame(kind: int, payload: bytes, flags: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags, 0, 0, 0, 0)) + payload
