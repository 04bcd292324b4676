"""A relay between a client and a server that counts what passes and can be cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast


@dataclass(slots=True)
class Traffic:
    """What has passed so far.

    Attributes:
        address: Where the client connects to.
        sent: Bytes from the client to the server.
        received: Bytes from the server to the client.
        connections: Those that are open, each with the task that relays it.
    """

    address: str
    sent: int = 0
    received: int = 0
    connections: set[asyncio.Task[Any]] = field(default_factory=set)

    async def cut(self) -> None:
        """Break every connection; new ones are welcome."""
        for one in list(self.connections):
            one.cancel()
        await asyncio.gather(*self.connections, return_exceptions=True)


@asynccontextmanager
async def relayed(address: str) -> AsyncIterator[Traffic]:
    """Relay connections to `address`."""
    host, _, port = address.rpartition(":")
    traffic = Traffic("")
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def pump(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, back: bool
    ) -> None:
        while content := await reader.read(1 << 16):
            if back:
                traffic.received += len(content)
            else:
                traffic.sent += len(content)
            writer.write(content)
            await writer.drain()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        traffic.connections.add(task)
        task.add_done_callback(traffic.connections.discard)
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        pumps = (
            asyncio.create_task(pump(reader, far_writer, back=False)),
            asyncio.create_task(pump(far_reader, writer, back=True)),
        )
        try:
            await asyncio.wait((*pumps, ended), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in pumps:
                one.cancel()
            for end in (writer, far_writer):
                end.close()
            await asyncio.gather(*pumps, return_exceptions=True)

    relay = await asyncio.start_server(connected, "127.0.0.1", 0)
    traffic.address = f"127.0.0.1:{relay.sockets[0].getsockname()[1]}"
    async with relay:
        yield traffic
        ended.set_result(None)
        await asyncio.gather(*traffic.connections)
        await asyncio.sleep(0)
