"""As much of HTTP/2 as it takes to see what a server says about a connection."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
CONTINUATION = 9
MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 3, 4
END_STREAM, END_HEADERS = 1, 4
_ACK = 1


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a connection."""

    kind: int
    flags: int
    payload: bytes
    stream: int = 0

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
        self._socket.sendall(PREFACE + frame_bytes(SETTINGS, b""))

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def frames(self) -> Iterator[Frame]:
        """What the server sends until it closes the connection."""
        while header := self._read(9):
            length = int.from_bytes(header[:3], "big")
            stream = int.from_bytes(header[5:], "big")
            frame = Frame(header[3], header[4], self._read(length), stream)
            if frame.kind == SETTINGS and not frame.is_acknowledgement:
                self._socket.sendall(frame_bytes(SETTINGS, b"", _ACK))
            yield frame

    def next_of(self, kind: int, *, acknowledgement: bool = False) -> Frame:
        """The next frame of a kind; what comes before it is passed over."""
        for frame in self.frames():
            if frame.kind == kind and frame.is_acknowledgement is acknowledgement:
                return frame
        raise AssertionError(f"the connection was closed before a frame of kind {kind} came")

    def ping(self, times: int = 1) -> None:
        """Send so many at once: a server that has had enough of them may close meanwhile."""
        self._socket.sendall(times * frame_bytes(PING, b"12345678"))

    def send(self, content: bytes) -> None:
        """Send frames, or anything else, as they are."""
        self._socket.sendall(content)

    def acknowledge(self, ping: Frame) -> None:
        self._socket.sendall(frame_bytes(PING, ping.payload, _ACK))

    def _read(self, length: int) -> bytes:
        content = b""
        while len(content) < length:
            part = self._socket.recv(length - len(content))
            if not part:
                return b""
            content += part
        return content


def frame_bytes(kind: int, payload: bytes, flags: int = 0, stream: int = 0) -> bytes:
    """A frame as the wire has it; `stream` is 0 for the connection itself."""
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags))
    return head + stream.to_bytes(4, "big") + payload


def field_block(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Header fields as literals that are never indexed and never Huffman-coded."""
    return b"".join(
        b"\x10" + _length(name) + name + _length(value) + value for name, value in fields
    )


def _length(content: bytes) -> bytes:
    """A length as an integer of HPACK with a prefix of seven bits."""
    rest = len(content) - 127
    if rest < 0:
        return bytes((len(content),))
    digits = bytearray((127,))
    while rest >= 128:
        digits.append(rest % 128 + 128)
        rest //= 128
    digits.append(rest)
    return bytes(digits)
