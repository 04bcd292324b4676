"""What carries calls: a native HTTP/2 front where it can serve what was asked, else grpcio."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final, Literal

import grpc

from optimizers.contract.host import cpu_budget
from server.errors import FailedPrecondition

_log = logging.getLogger(__name__)

Transport = Literal["auto", "native", "grpcio"]

_NATIVE_PACKAGE: Final = "pygrpc_native"
_FEW_PROCESSORS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Connections:
    """How connections are kept and bounded.

    Attributes:
        max_message_bytes: Largest message taken or given.
        max_streams: Calls under way on one connection; more wait at the client.
        keepalive_s: How often the server pings a silent client.
        keepalive_timeout_s: How long it waits for the answer before it closes the connection.
        min_ping_interval_s: How often a client may ping, with calls under way or without.
        max_age_s: When a connection is closed so that its client connects anew; 0: never.
        max_age_grace_s: How long calls under way may take after that.
        response_compression: Whether answers may have to be compressed.
    """

    max_message_bytes: int
    max_streams: int
    keepalive_s: float
    keepalive_timeout_s: float
    min_ping_interval_s: float
    max_age_s: float = 0.0
    max_age_grace_s: float = 0.0
    response_compression: bool = False


def choose_transport(
    wanted: Transport, connections: Connections, *, is_local: bool
) -> Literal["native", "grpcio"]:
    """Which transport serves; where it is not the native one, the log says why.

    Args:
        wanted: What was asked for.
        connections: What it has to do.
        is_local: Whether only this machine can reach it.

    Raises:
        FailedPrecondition: The native one was asked for by name and cannot serve this.
    """
    if wanted == "grpcio":
        return "grpcio"
    obstacle = _obstacle(connections)
    if not obstacle:
        if not is_local:
            _log.warning(
                "The native transport reads and unpacks a message whole before it looks at its "
                "size: half a megabyte of gzip can take a gigabyte. Where callers are not trusted, "
                "put a proxy in front that bounds messages"
            )
        return "native"
    if wanted == "native":
        raise FailedPrecondition(f"--transport native cannot be used: {obstacle}")
    _log.info("Serving through grpcio, not the native transport: %s", obstacle)
    return "grpcio"


def io_threads(processors: float) -> int:
    """How many threads of the native transport read and write.

    On few processors a second one has none to itself: the two hand a burst to each other instead of
    reading it, which took a third of a small model's processor time with 8 requests in flight.

    Args:
        processors: What this process may use; a quota may be a fraction.
    """
    return 1 if processors <= _FEW_PROCESSORS else 2


def new_server(transport: Literal["native", "grpcio"], connections: Connections) -> Any:
    """A server with the interface of `grpc.aio.Server`; nothing listens yet."""
    options = [
        ("grpc.max_receive_message_length", connections.max_message_bytes),
        ("grpc.max_send_message_length", connections.max_message_bytes),
        ("grpc.so_reuseport", 0),
        ("grpc.max_concurrent_streams", connections.max_streams),
        ("grpc.keepalive_time_ms", int(1000 * connections.keepalive_s)),
        ("grpc.keepalive_timeout_ms", int(1000 * connections.keepalive_timeout_s)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.ping_timeout_ms", int(1000 * connections.keepalive_timeout_s)),
        (
            "grpc.http2.min_ping_interval_without_data_ms",
            int(1000 * connections.min_ping_interval_s),
        ),
    ]
    if connections.max_age_s:
        options += [
            ("grpc.max_connection_age_ms", int(1000 * connections.max_age_s)),
            ("grpc.max_connection_age_grace_ms", int(1000 * connections.max_age_grace_s)),
        ]
    if transport == "native":
        from server.rpc.native import NativeServer

        return NativeServer(options=options, io_threads=io_threads(cpu_budget()))
    return grpc.aio.server(options=options)


def _obstacle(connections: Connections) -> str:
    """Why the native transport cannot serve; "" where it can."""
    if find_spec(_NATIVE_PACKAGE) is None:
        return f"the package {_NATIVE_PACKAGE.replace('_', '-')} is not installed"
    if connections.max_age_s:
        return "it cannot close connections by age (--max-connection-age-seconds)"
    if connections.response_compression:
        return "it cannot compress answers (--response-compression)"
    return ""
