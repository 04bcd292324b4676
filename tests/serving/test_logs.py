"""What a server logs, and that nobody's text becomes a record of its own."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.app import App
from server.config import ServerConfig
from server.logs import JsonFormatter, TextFormatter, concern
from tests.support import models
from tests.support.calls import linear_request, refusal
from tests.support.servers import hone, running

FORGED = "name\nERROR server.app: forged\x1b[31m\x85\u2028ERROR forged"


def record_of(
    message: str, *arguments: object, error: BaseException | None = None, **fields: str
) -> logging.LogRecord:
    info = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord("server.x", logging.ERROR, "", 0, message, arguments, info)
    record.__dict__.update(fields)
    return record


def failed(text: str) -> BaseException:
    try:
        raise RuntimeError(text)
    except RuntimeError as error:
        return error


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(), st.text())
def test_any_text_stays_on_its_line(text: str, request_id: str) -> None:
    error = failed(text)
    concern(error, model="net", version=1, variant="original", request_id=request_id)
    record = record_of("says %s", text, error=error)
    first, *others = TextFormatter().format(record).splitlines()
    assert first.startswith("ERROR server.x: says ")
    assert all(line.startswith("  ") for line in others)
    line = JsonFormatter().format(record)
    assert len(line.splitlines()) == 1
    assert line.isascii()
    content = json.loads(line)
    assert content["message"] == f"says {text}"
    assert text in content["traceback"]


def test_what_a_record_concerns_is_told_in_both_forms() -> None:
    error = failed("no")
    concern(error, model="net", version=3, variant="v-1", request_id="one\ntwo")
    record = record_of("unexpected", error=error)
    text = TextFormatter().format(record).splitlines()[0]
    fields = "[model='net' version='3' variant='v-1' request_id='one\\ntwo']"
    assert text == f"ERROR server.x: unexpected {fields}"
    content = json.loads(JsonFormatter().format(record))
    assert content["request_id"] == "one\ntwo"
    assert (content["model"], content["version"], content["variant"]) == ("net", "3", "v-1")
    assert content["level"] == "error"
    assert content["time"].endswith("+00:00")
    told = TextFormatter().format(record_of("opened", model="net"))
    assert told == "ERROR server.x: opened [model='net']"


def test_nothing_logged_is_endless() -> None:
    error = failed("x" * 10_000_000)
    concern(error, model="net", version=1, variant="original", request_id="i" * 10_000_000)
    record = record_of("%s", "m" * 10_000_000, error=error)
    for formatter in (TextFormatter(), JsonFormatter()):
        assert len(formatter.format(record)) < 200_000


@pytest.mark.parametrize("kind", ["text", "json"])
def test_a_server_logs_hostile_names_on_one_line(tmp_path: Path, kind: str) -> None:
    models.linear(tmp_path / "models/linear/1/model.onnx")
    models.linear(tmp_path / "models" / FORGED / "1/model.onnx")
    with running(tmp_path / "models", tmp_path / "state", "--log-format", kind) as server:
        assert server.stop() == 0
    assert any("forged" in line for line in server.log)
    assert not [line for line in server.log if line.startswith("ERROR server.app")]
    if kind == "json":
        contents = [json.loads(line) for line in server.log]
        assert {content["message"] for content in contents} >= {"Stopped"}
    else:
        assert "INFO server.app: Stopped\n" in server.log


def test_the_level_is_the_least_that_is_written(tmp_path: Path) -> None:
    models.linear(tmp_path / "models/linear/1/model.onnx")
    with running(tmp_path / "models", tmp_path / "state", "--log-level", "error") as server:
        assert server.stop() == 0
    assert not server.log


def test_a_level_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    done = hone("serve", str(tmp_path), "--log-level", "loud")
    assert done.returncode == 1
    assert "--log-level" in done.stderr
    assert "'loud'" in done.stderr


async def test_an_unexpected_error_is_logged_with_its_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    models.linear(tmp_path / "models/linear/1/model.onnx")
    app = App(
        ServerConfig(
            repository=tmp_path / "models",
            state=tmp_path / "state",
            cpus=1,
            grpc_port=0,
            admin_port=0,
            metrics_port=0,
        )
    )
    await app.start()
    try:
        [model] = app.registry.models()

        async def broken(*arguments: Any) -> Any:
            raise ZeroDivisionError(FORGED)

        monkeypatch.setattr(model.active, "infer", broken)
        request = linear_request()
        request.id = "r-7"
        code, text = await refusal(f"127.0.0.1:{app.public.port}", request)
    finally:
        await app.stop()
    assert code == "INTERNAL"
    [record] = [one for one in caplog.records if one.name == "server.rpc.status"]
    content = json.loads(JsonFormatter().format(record))
    assert content["message"].split()[-1] in text
    told = (content["model"], content["version"], content["variant"], content["request_id"])
    assert told == ("linear", "1", "original", "r-7")
    assert "ZeroDivisionError" in content["traceback"]
    assert not [
        line for line in TextFormatter().format(record).splitlines()[1:] if line[:2] != "  "
    ]
