"""One call to a server, and where commands print what it answers."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any, Final

from rich.console import Console

from server.client import Client, as_data

_PIPE_WIDTH: Final = 160

console: Final = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def call(address: str, method: str, request: Any, response: type[Any]) -> Any:
    """Call one method of a server; see `Client.call`.

    Raises:
        CallFailed: It refused or could not be reached.
    """

    async def once() -> Any:
        async with Client(address) as client:
            return await client.call(method, request, response)

    return asyncio.run(once())


def print_json(message: Any) -> None:
    """Print a message with every field present."""
    print(json.dumps(as_data(message), indent=2))
