"""How requests wait and are joined, as `dynamic_batching` of a `config.pbtxt` says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from optimizers.contract.documents import shown
from optimizers.contract.errors import InvalidDocument
from server.pb import model_config_pb2 as pb

_MOST_PRIORITY_LEVELS: Final = 1024
_LONGEST_DELAY_US: Final = 3_600_000_000
_LONGEST_TIMEOUT_US: Final = 10**15
_MOST_PREFERRED: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePolicy:
    """How long requests of one priority wait, and how many of them.

    Attributes:
        timeout_s: Longest wait of a request that does not say its own; 0 for no limit.
        delays: What becomes of a request that waited longer: answered after all others (True) or
            refused (False).
        allows_override: Whether a request's own `timeout` counts.
        max_items: Most requests that wait; 0 for what the server allows.
    """

    timeout_s: float = 0.0
    delays: bool = False
    allows_override: bool = True
    max_items: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """How requests wait and are joined; every default means "not said".

    Attributes:
        max_delay_s: How long a run may wait for more rows than it has.
        preferred: Numbers of rows worth waiting for, ascending.
        priority_levels: Priorities there are, 1 the highest; 0: all requests are equal.
        default_priority: Priority of a request that names none; 0 when there are no levels.
        default_policy: How requests wait whose priority has no policy of its own.
        policies: Priority → how its requests wait.
    """

    max_delay_s: float = 0.0
    preferred: tuple[int, ...] = ()
    priority_levels: int = 0
    default_priority: int = 0
    default_policy: QueuePolicy = field(default_factory=QueuePolicy)
    policies: Mapping[int, QueuePolicy] = field(default_factory=dict)

    def policy(self, priority: int) -> QueuePolicy:
        """How requests of a priority wait."""
        return self.policies.get(priority, self.default_policy)


def read_batching(source: str, message: Any) -> Batching:
    """Read the `dynamic_batching` of a parsed model configuration.

    Raises:
        InvalidDocument: It contradicts itself or goes beyond a bound; the text names the field.
    """
    if not message.HasField("dynamic_batching"):
        return Batching()
    given = message.dynamic_batching
    where = f"{source}: dynamic_batching"
    levels, default = given.priority_levels, given.default_priority_level
    if levels > _MOST_PRIORITY_LEVELS:
        raise InvalidDocument(
            f"{where}.priority_levels must be at most {_MOST_PRIORITY_LEVELS}, got {levels}"
        )
    if levels and not 1 <= default <= levels:
        raise InvalidDocument(
            f"{where}.default_priority_level must be from 1 to priority_levels, which is {levels}, "
            f"got {default}"
        )
    if default and not levels:
        raise InvalidDocument(
            f"{where}.default_priority_level needs priority_levels, got {default} without them"
        )
    return Batching(
        max_delay_s=_seconds(
            f"{where}.max_queue_delay_microseconds",
            given.max_queue_delay_microseconds,
            _LONGEST_DELAY_US,
        ),
        preferred=_preferred(where, given.preferred_batch_size, message.max_batch_size),
        priority_levels=levels,
        default_priority=default,
        default_policy=(
            _policy(f"{where}.default_queue_policy", given.default_queue_policy)
            if given.HasField("default_queue_policy")
            else QueuePolicy()
        ),
        policies=_policies(f"{where}.priority_queue_policy", given.priority_queue_policy, levels),
    )


def _preferred(where: str, sizes: Any, max_batch_size: int) -> tuple[int, ...]:
    if len(sizes) > _MOST_PREFERRED:
        raise InvalidDocument(
            f"{where}.preferred_batch_size: expected at most {_MOST_PREFERRED} sizes, "
            f"got {len(sizes)}"
        )
    for size in sizes:
        if not 1 <= size <= max_batch_size:
            raise InvalidDocument(
                f"{where}.preferred_batch_size must be from 1 to max_batch_size, which is "
                f"{max_batch_size}, got {size}"
            )
    return tuple(sorted(set(sizes)))


def _policies(where: str, given: Any, levels: int) -> dict[int, QueuePolicy]:
    for level in given:
        if not 1 <= level <= levels:
            raise InvalidDocument(
                f"{where}: a key must be from 1 to priority_levels, which is {levels}, "
                f"got {shown(level)}"
            )
    return {level: _policy(f"{where}.{level}", given[level]) for level in sorted(given)}


def _policy(where: str, given: Any) -> QueuePolicy:
    actions = pb.ModelQueuePolicy.TimeoutAction
    if given.timeout_action not in actions.values():
        raise InvalidDocument(
            f"{where}.timeout_action must be one of {', '.join(actions.keys())}, "
            f"got {given.timeout_action}"
        )
    return QueuePolicy(
        timeout_s=_seconds(
            f"{where}.default_timeout_microseconds",
            given.default_timeout_microseconds,
            _LONGEST_TIMEOUT_US,
        ),
        delays=given.timeout_action == pb.ModelQueuePolicy.DELAY,
        allows_override=given.allow_timeout_override,
        max_items=given.max_queue_size,
    )


def _seconds(where: str, microseconds: int, longest: int) -> float:
    if microseconds > longest:
        raise InvalidDocument(f"{where} must be at most {longest}, got {microseconds}")
    return microseconds / 1e6
