"""One table: which gRPC status each error becomes, and how much of it a caller is told."""

from __future__ import annotations

import logging
import secrets
from typing import Final

import grpc

from optimizers.contract import errors as contract
from server import errors

_log = logging.getLogger(__name__)

_LONGEST_DETAILS: Final = 1024

_CODES: Final[dict[type[contract.HoneError], grpc.StatusCode]] = {
    contract.InvalidDocument: grpc.StatusCode.INVALID_ARGUMENT,
    contract.InvalidModel: grpc.StatusCode.FAILED_PRECONDITION,
    contract.InvalidData: grpc.StatusCode.FAILED_PRECONDITION,
    contract.VariantDamaged: grpc.StatusCode.FAILED_PRECONDITION,
    contract.NotSupported: grpc.StatusCode.UNIMPLEMENTED,
    contract.RunFailed: grpc.StatusCode.INVALID_ARGUMENT,
    contract.OutOfMemory: grpc.StatusCode.RESOURCE_EXHAUSTED,
    contract.SessionClosed: grpc.StatusCode.UNAVAILABLE,
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.NotReady: grpc.StatusCode.UNAVAILABLE,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.TooLarge: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Unsupported: grpc.StatusCode.UNIMPLEMENTED,
    errors.ModelFailed: grpc.StatusCode.INTERNAL,
    errors.GoldenMismatch: grpc.StatusCode.FAILED_PRECONDITION,
}


_TRITON_CODES: Final[dict[type[contract.HoneError], grpc.StatusCode]] = {
    errors.Overloaded: grpc.StatusCode.UNAVAILABLE,
    errors.QueueTimeout: grpc.StatusCode.UNAVAILABLE,
    errors.TooLarge: grpc.StatusCode.INVALID_ARGUMENT,
    contract.OutOfMemory: grpc.StatusCode.UNAVAILABLE,
}
"""Triton knows no RESOURCE_EXHAUSTED: its clients ask again after UNAVAILABLE."""


def use_triton_codes() -> None:
    """Answer with Triton's codes from now on; said once, before the server listens."""
    _CODES.update(_TRITON_CODES)


def code_of(kind: type[BaseException]) -> grpc.StatusCode | None:
    """The status of an error class or of its nearest listed base; None when nothing fits."""
    return next((_CODES[base] for base in kind.__mro__ if base in _CODES), None)


def describe(error: BaseException) -> tuple[grpc.StatusCode, str]:
    """The status and the text that a caller gets for `error`.

    What nobody expected is logged with its traceback under a number; the caller gets the number.
    """
    code = code_of(type(error))
    if code is None:
        number = secrets.token_hex(4)
        _log.error("unexpected error %s", number, exc_info=error)
        return grpc.StatusCode.INTERNAL, f"internal error {number}; see the server's log"
    return code, _printable(str(error))


def _printable(text: str) -> str:
    """At most `_LONGEST_DETAILS` characters; cut before anything looks at each of them."""
    shown = text[: _LONGEST_DETAILS + 1]
    clean = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
    return clean if len(clean) <= _LONGEST_DETAILS else clean[: _LONGEST_DETAILS - 1] + "…"
