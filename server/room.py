"""Who may wait: bounds in items, bytes and time, for one variant and for the whole server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from server.cost import CostCurve
from server.errors import InvalidRequest, Overloaded, OverloadReason
from server.policy import BatchPolicy
from server.triton_batching import QueuePolicy
from server.waiting import Waiting, WaitingLine

_ESTIMATE_MARGIN: Final = 1.25
"""An estimate may be too low by so much; work that ends a moment too late is work for nothing."""


class Room:
    """What may wait in total, for all variants of a server."""

    def __init__(self, max_items: int, max_bytes: int) -> None:
        """Hold at most `max_items` requests and `max_bytes` of inputs; one always fits."""
        self.max_items = max_items
        self.max_bytes = max_bytes
        self.items = 0
        self.size_bytes = 0

    def take(self, size_bytes: int) -> None:
        """One more waits."""
        self.items += 1
        self.size_bytes += size_bytes

    def give(self, size_bytes: int) -> None:
        """One waits no longer."""
        self.items -= 1
        self.size_bytes -= size_bytes


class Admission:
    """Decides who may join one variant's line. Refusing is cheap, and it comes first."""

    def __init__(
        self,
        policy: BatchPolicy,
        line: WaitingLine,
        room: Room,
        refused: Callable[[str], None],
    ) -> None:
        """Guard `line`.

        Args:
            policy: The bounds.
            line: What waits already.
            room: The server's bounds, shared with other lines.
            refused: Told the reason of each refusal.
        """
        self._policy = policy
        self._line = line
        self._room = room
        self._refused = refused
        batching = policy.batching
        self._counts_levels = any(queue.max_items for queue in batching.policies.values())
        self._by_level: dict[int, int] = {}
        self.has_rules = bool(
            batching.priority_levels
            or batching.policies
            or batching.default_policy != QueuePolicy()
        )
        """Whether the model's configuration says anything of priorities or time-outs."""

    def place(self, waiting: Waiting, timeout_s: float, priority: int) -> None:
        """Find a request's level, and how long it may wait there.

        Args:
            waiting: The request.
            timeout_s: What its caller accepts; 0 for no limit of its own.
            priority: What its caller chose; 0 for the default. Without levels it says nothing.

        Raises:
            InvalidRequest: There is no such level.
        """
        batching = self._policy.batching
        if batching.priority_levels:
            if priority > batching.priority_levels:
                raise InvalidRequest(
                    f"parameter 'priority' must be from 1 to {batching.priority_levels}, or 0 for "
                    f"the default, got {priority}"
                )
            waiting.level = priority or batching.default_priority
        policy = batching.policy(waiting.level)
        longest = policy.timeout_s
        if timeout_s and policy.allows_override:
            longest = timeout_s
        if longest:
            waiting.leaves_at = waiting.since + longest

    def admit(self, waiting: Waiting) -> None:
        """Make sure that a request, once placed, fits into every bound on items and bytes.

        Raises:
            Overloaded: It does not; the text says which bound was met.
        """
        policy, line, room, size = self._policy, self._line, self._room, waiting.size_bytes
        if line.items >= policy.max_queue_items:
            self._refuse("queue_items", f"{policy.max_queue_items} requests are waiting")
        if line.items and line.size_bytes + size > policy.max_queue_bytes:
            self._refuse(
                "queue_bytes",
                f"{line.size_bytes} bytes are waiting and at most {policy.max_queue_bytes} may",
            )
        if room.items >= room.max_items:
            self._refuse("total_items", f"{room.items} requests are waiting for all models")
        if room.items and room.size_bytes + size > room.max_bytes:
            self._refuse(
                "total_bytes",
                f"{room.size_bytes} bytes are waiting for all models and at most "
                f"{room.max_bytes} may",
            )
        if self._counts_levels:
            self._require_level(waiting)

    def require_time(self, waiting: Waiting, curve: CostCurve, now: float, busy_s: float) -> None:
        """Make sure that a request which has to wait can be answered in time.

        Args:
            waiting: The request, placed.
            curve: What its rows cost.
            now: The time.
            busy_s: Expected time until the lanes are free, summed over them.

        Raises:
            Overloaded: It could not, or it would wait longer than the server lets anybody.
        """
        wait_s = (self._line.cost_s + busy_s) / self._policy.lanes
        if wait_s > self._policy.max_queue_s:
            self._refuse(
                "queue_time",
                f"the wait would be about {wait_s:.3g} s, at most {self._policy.max_queue_s:g} s "
                "is accepted",
            )
        ends = waiting.deadline
        if ends is not None:
            needed_s = _ESTIMATE_MARGIN * (wait_s + curve.seconds(waiting.rows))
            if now + needed_s > ends:
                self._refuse(
                    "would_be_late",
                    f"an answer would take about {needed_s:.3g} s, the caller waits "
                    f"{max(0.0, ends - now):.3g} s",
                )

    def enters(self, waiting: Waiting) -> None:
        """A request joins the line, for the first time or again."""
        self._room.take(waiting.size_bytes)
        if self._counts_levels:
            self._by_level[waiting.level] = self._by_level.get(waiting.level, 0) + 1

    def left(self, waiting: Waiting) -> None:
        """A request left the line: it runs, or it was refused, or its caller has gone."""
        self._room.give(waiting.size_bytes)
        if self._counts_levels:
            self._by_level[waiting.level] -= 1

    def _require_level(self, waiting: Waiting) -> None:
        most = self._policy.batching.policy(waiting.level).max_items
        if most and self._by_level.get(waiting.level, 0) >= most:
            self._refuse("queue_items", f"{most} requests of priority {waiting.level} are waiting")

    def _refuse(self, reason: OverloadReason, what: str) -> None:
        self._refused(reason)
        raise Overloaded(f"Exceeds maximum queue size: {what}; try again later", reason=reason)
