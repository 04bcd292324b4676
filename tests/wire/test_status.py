"""Every error has a code, and no caller is told more than it may know."""

from __future__ import annotations

import grpc
import pytest

from optimizers.contract.errors import HoneError
from server import errors
from server.rpc.status import code_of, describe


def all_kinds(kind: type[HoneError]) -> list[type[HoneError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in all_kinds(child))]


SERVED = [kind for kind in all_kinds(errors.ServingError) if kind is not errors.ServingError]


@pytest.mark.parametrize("kind", SERVED, ids=lambda kind: kind.__name__)
def test_every_serving_error_has_a_code(kind: type[HoneError]) -> None:
    assert code_of(kind) is not None


def test_what_nobody_expected_is_told_by_number_only(caplog: pytest.LogCaptureFixture) -> None:
    code, text = describe(ValueError("the secret path /srv/models"))
    assert code is grpc.StatusCode.INTERNAL
    assert "secret" not in text
    number = text.split()[2].strip(";")
    assert number in caplog.text
    assert "secret" in caplog.text


def test_texts_are_printable_and_bounded() -> None:
    code, text = describe(errors.UnknownModel("a\nb\x00" + "x" * 5000))
    assert code is grpc.StatusCode.NOT_FOUND
    assert "\n" not in text
    assert "\x00" not in text
    assert len(text) <= 1024
