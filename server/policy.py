"""How requests for one variant are joined, and how many may wait."""

from __future__ import annotations

from dataclasses import dataclass, field

from server.triton_batching import Batching


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPolicy:
    """How requests are joined and how many may wait.

    Attributes:
        lanes: Concurrent runs, at least 1.
        max_batch: Most rows joined into one run; 1 joins nothing.
        max_queue_items: Requests that may wait.
        max_queue_bytes: Bytes of their inputs.
        max_queue_s: Longest expected wait with which a request is accepted.
        inline_s: Longest expected run on the event loop's own thread; 0: all take a lane's.
        batching: What `config.pbtxt` says: delays, preferred sizes, priorities, time-outs.
    """

    lanes: int
    max_batch: int
    max_queue_items: int
    max_queue_bytes: int
    max_queue_s: float = float("inf")
    inline_s: float = 0.0
    batching: Batching = field(default_factory=Batching)
