"""The native transport's server, without a leak that version 0.5 has."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from pygrpc_native import EVENT_CANCEL
from pygrpc_native.aio import Server


class NativeServer(Server):
    """Forgets calls that were cancelled before their handler's first step.

    Such a call's task ends without having run, and with it what would have taken the call out of
    the server's table: 17,000 were still held after 92,000 cancellations.
    """

    def _on_events(self, events: list[tuple[Any, ...]]) -> None:
        super()._on_events(events)
        for kind, call_id, *_ in events:
            if kind != EVENT_CANCEL:
                continue
            call = self._calls.get(call_id)
            if call is not None and call.task is not None:
                call.task.add_done_callback(partial(self._forget, call_id))

    def _forget(self, call_id: int, task: asyncio.Task[None]) -> None:
        self._calls.pop(call_id, None)
