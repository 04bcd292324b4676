"""How connections are kept, bounded and closed, and which transport carries them."""

from __future__ import annotations

import asyncio
import subprocess
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from server.rpc.native import NativeServer
from tests.support import models
from tests.support.http2 import GOAWAY, MAX_CONCURRENT_STREAMS, PING, SETTINGS, Connection
from tests.support.servers import running, serve_command


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    models.linear(tmp_path / "models/linear/1/model.onnx")
    return tmp_path / "models"


def test_the_most_streams_of_a_connection_are_announced(repository: Path, tmp_path: Path) -> None:
    with (
        running(repository, tmp_path / "state", "--max-streams", "7") as server,
        Connection(server.public) as connection,
    ):
        assert connection.next_of(SETTINGS).settings[MAX_CONCURRENT_STREAMS] == 7


def test_a_silent_client_is_pinged_and_one_that_does_not_answer_is_dropped(
    repository: Path, tmp_path: Path
) -> None:
    flags = ("--keepalive-seconds", "1", "--keepalive-timeout-seconds", "1")
    with running(repository, tmp_path / "state", *flags) as server:
        with Connection(server.public) as connection:
            for _ in range(2):
                connection.acknowledge(connection.next_of(PING))
        with Connection(server.public) as silent:
            silent.next_of(PING)
            assert [frame for frame in silent.frames() if frame.kind == PING] == []


def test_a_client_may_ping_without_a_call_as_often_as_is_said(
    repository: Path, tmp_path: Path
) -> None:
    with (
        running(repository, tmp_path / "state", "--min-ping-interval-seconds", "0.2") as server,
        Connection(server.public) as connection,
    ):
        for _ in range(5):  # grpcio forgives two pings that come too soon
            connection.ping()
            connection.next_of(PING, acknowledgement=True)
            time.sleep(0.6)


def test_a_client_that_pings_all_the_time_is_dropped_by_grpcio_and_harmless_to_native(
    transport: str, repository: Path, tmp_path: Path
) -> None:
    with (
        running(repository, tmp_path / "state") as server,
        Connection(server.public) as connection,
    ):
        connection.ping(20)
        if transport == "grpcio":
            assert b"too_many_pings" in connection.next_of(GOAWAY).payload
        else:
            for _ in range(20):
                connection.next_of(PING, acknowledgement=True)


def test_a_connection_ends_at_its_age_or_the_native_transport_says_that_it_cannot(
    transport: str, repository: Path, tmp_path: Path
) -> None:
    flags = ("--max-connection-age-seconds", "1", "--max-connection-age-grace-seconds", "1")
    if transport == "native":
        done = subprocess.run(
            serve_command(repository, tmp_path / "state", *flags),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1
        assert "it cannot close connections by age (--max-connection-age-seconds)" in done.stderr
        assert "Traceback" not in done.stderr
        return
    with (
        running(repository, tmp_path / "state", *flags) as server,
        Connection(server.public) as connection,
    ):
        connection.next_of(GOAWAY)


def test_auto_is_native_unless_something_asked_for_needs_grpcio(
    repository: Path, tmp_path: Path
) -> None:
    with running(repository, tmp_path / "state", "--transport", "auto") as server:
        pass
    assert not [line for line in server.log if "grpcio" in line]
    flags = ("--transport", "auto", "--max-connection-age-seconds", "60")
    with running(repository, tmp_path / "state", *flags) as server:
        pass
    [line] = [line for line in server.log if "grpcio" in line]
    assert "it cannot close connections by age" in line


@pytest.mark.alone  # it has 0.2 s for it
async def test_calls_that_are_cancelled_at_once_are_forgotten() -> None:
    async def answer(request: bytes, context: Any) -> bytes:
        await asyncio.sleep(0.05)
        return request

    server = NativeServer()
    handler = grpc.unary_unary_rpc_method_handler(answer)
    server.add_registered_method_handlers("echo.Echo", {"Say": handler})
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        untyped: Any = channel
        say = untyped.unary_unary("/echo.Echo/Say")
        for _ in range(100):
            calls = [say(b"hello") for _ in range(30)]
            await asyncio.sleep(0.001)
            for call in calls:
                call.cancel()
        assert await say(b"still here") == b"still here"
        await asyncio.sleep(0.2)
        assert len(server._calls) == 0
    await server.stop(1)
