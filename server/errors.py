"""Errors of the serving side; they know no transport. `rpc.status` gives each a code.

ServingError
├── InvalidRequest         the caller asked for something that makes no sense
├── NotFound
│   ├── UnknownModel
│   ├── UnknownVersion
│   ├── UnknownVariant
│   ├── UnknownProfile
│   └── UnknownJob
├── AlreadyExists          what is to be made is there already
├── NotReady               known, but not able to answer now
├── Overloaded             the queue is full; trying again later makes sense
├── TooLarge               a request is beyond a limit; trying again does not help
├── DeadlineExceeded       the caller's time ran out
│   └── QueueTimeout       it waited longer for a lane than it or its model allows
├── FailedPrecondition     the state of the server forbids it
│   └── NotEnoughMemory    for now: with more free memory it would go
├── Unsupported            Hone does not do this
├── ModelFailed            the model could not be computed
└── GoldenMismatch         a variant answers differently from what was proved
"""

from __future__ import annotations

from typing import Literal

from optimizers.contract.errors import HoneError

OverloadReason = Literal[
    "queue_items", "queue_bytes", "total_items", "total_bytes", "queue_time", "would_be_late"
]


class ServingError(HoneError):
    """Base of the serving side's errors."""


class InvalidRequest(ServingError):
    """The request does not fit the model or the protocol."""


class NotFound(ServingError):
    """What was named does not exist."""


class UnknownModel(NotFound):
    """No model of that name; the text is Triton's."""

    def __init__(self, name: str) -> None:
        super().__init__(f"Request for unknown model: '{name}' is not found")


class UnknownVersion(NotFound):
    """The model has no such version, or no label of that name; the text is Triton's."""

    def __init__(self, name: str, version: int | str) -> None:
        super().__init__(f"Request for unknown model: '{name}' version {version} is not found")


class UnknownVariant(NotFound):
    """The version has no such variant."""

    def __init__(self, name: str, version: int, variant: str) -> None:
        super().__init__(
            f"model '{name}' version {version} has no variant '{variant}'; "
            f"`hone variants {name}` lists them"
        )


class UnknownProfile(NotFound):
    """The model's hone.yaml defines no such profile."""

    def __init__(self, name: str, profile: str, known: list[str]) -> None:
        super().__init__(
            f"model '{name}' has no profile '{profile}' in its hone.yaml; "
            f"profiles: {', '.join(known) or 'none'}"
        )


class UnknownJob(NotFound):
    """There is no job of that id."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"there is no job '{job_id}'; `hone jobs` lists them")


class AlreadyExists(ServingError):
    """What is to be made exists already under that name."""


class NotReady(ServingError):
    """It exists, but cannot answer now."""


class Overloaded(ServingError):
    """A queue is full.

    Attributes:
        reason: Which bound was met.
    """

    def __init__(self, text: str, *, reason: OverloadReason) -> None:
        super().__init__(text)
        self.reason = reason


class TooLarge(ServingError):
    """The request is beyond a limit of this server."""


class DeadlineExceeded(ServingError):
    """The caller's deadline passed before there was an answer."""


class QueueTimeout(DeadlineExceeded):
    """The request waited longer for a lane than it, or its model's queue policy, allows."""


class FailedPrecondition(ServingError):
    """It cannot be done in the present state; the text says what to change."""


class NotEnoughMemory(FailedPrecondition):
    """A session cannot be opened beside what is open; it may go later."""


class Unsupported(ServingError):
    """Part of the protocol that Hone does not implement, or not here."""


class ModelFailed(ServingError):
    """The runtime refused to compute."""


class GoldenMismatch(ServingError):
    """A variant does not reproduce its golden outputs in this process."""
