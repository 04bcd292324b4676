"""Loads that bring a configuration, or files, in the place of what lies in the repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from server.client import CallFailed, Client
from server.pb import open_inference_pb2 as inference
from tests.support import models
from tests.support.calls import floats, index, refusal
from tests.support.servers import hone, running

EXPLICIT = ("--model-control", "explicit", "--load-model", "*")


def request(
    name: str, config: dict[str, Any] | None = None, **files: bytes
) -> inference.RepositoryModelLoadRequest:
    """A load; `v2_net` stands for file:2/net."""
    message = inference.RepositoryModelLoadRequest(model_name=name)
    if config is not None:
        message.parameters["config"].string_param = json.dumps(config)
    for key, content in files.items():
        version, _, file = key.removeprefix("v").partition("_")
        message.parameters[f"file:{version}/{file}"].bytes_param = content
    return message


async def load(address: str, message: inference.RepositoryModelLoadRequest) -> None:
    async with Client(address) as client:
        await client.call("RepositoryModelLoad", message, inference.RepositoryModelLoadResponse)


async def most_rows(address: str, name: str) -> int:
    """The max_batch_size in effect."""
    async with Client(address) as client:
        told = await client.call(
            "ModelConfig", inference.ModelConfigRequest(name=name), inference.ModelConfigResponse
        )
    return int(told.config.max_batch_size)


async def width(address: str, name: str = "net") -> int:
    """By the width of its answer a model tells which file it is."""
    async with Client(address) as client:
        answers, _ = await client.infer(name, {"x": floats(1, 4)})
    return int(answers["y"].shape[1])


async def test_a_configuration_counts_until_the_next_load(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    models.linear(folder / "net/1/model.onnx")
    (folder / "net/config.pbtxt").write_text("max_batch_size: 4")
    with running(folder, tmp_path / "state", *EXPLICIT) as server:
        assert await most_rows(server.public, "net") == 4
        await load(server.public, request("net", {"max_batch_size": 2}))
        assert await most_rows(server.public, "net") == 2
        async with Client(server.public) as client:
            with pytest.raises(CallFailed, match="batch-size must be <= 2"):
                await client.infer("net", {"x": floats(3, 4)})
        assert "the last load brought a configuration" in hone("models", admin=server.admin).stdout
        for config, code, part in (
            ({"max_batch_sise": 2}, "INVALID_ARGUMENT", "max_batch_sise"),
            ({"max_batch_size": -2}, "INVALID_ARGUMENT", "must not be negative"),
            ({"name": "other"}, "FAILED_PRECONDITION", "name is 'other'"),
            ({"default_model_filename": "no.onnx"}, "FAILED_PRECONDITION", "has no no.onnx"),
        ):
            message = request("net", config)
            got, text = await refusal(server.public, message, "RepositoryModelLoad")
            assert (got, part in text) == (code, True), text
            assert await most_rows(server.public, "net") == 2
        await load(server.public, request("net"))
        assert await most_rows(server.public, "net") == 4


async def test_files_count_until_the_next_load(tmp_path: Path) -> None:
    folder, state = tmp_path / "models", tmp_path / "state"
    models.linear(folder / "net/1/model.onnx", outputs=1)
    second = models.linear(tmp_path / "second.onnx", outputs=2).read_bytes()
    third = models.linear(tmp_path / "third.onnx", outputs=3).read_bytes()
    with running(folder, state, *EXPLICIT) as server:
        named = {"default_model_filename": "net"}
        await load(server.admin, request("net", named, v2_net=second))
        assert await width(server.public) == 2
        assert (await index(server.public))["net", "1"] == ("UNAVAILABLE", "unloaded")
        await load(server.admin, request("net", named, v2_net=third))
        assert await width(server.public) == 3
        assert len(list((state / "overrides").iterdir())) == 1
        # What cannot be loaded changes nothing and leaves nothing.
        message = request("net", named, v2_net=third[:-9])
        code, text = await refusal(server.admin, message, "RepositoryModelLoad")
        assert (code, "cut short" in text) == ("FAILED_PRECONDITION", True)
        assert await width(server.public) == 3
        assert len(list((state / "overrides").iterdir())) == 1
        await load(server.admin, request("net"))
        assert await width(server.public) == 1
        assert list((state / "overrides").iterdir()) == []
        # A model that the repository does not hold lives as long as it is loaded.
        await load(server.admin, request("guest", named, v1_net=second))
        assert await width(server.public, "guest") == 2
        assert hone("unload", "guest", admin=server.admin).returncode == 0
        assert ("guest", "1") not in await index(server.public)
        assert list((state / "overrides").iterdir()) == []
        await load(server.admin, request("net", named, v2_net=second))
    with running(folder, state) as server:
        assert await width(server.public) == 1
        assert not (state / "overrides").exists()


@pytest.mark.parametrize(
    "place",
    [
        "1/../../evil", "1/..", "1/.", "1/", "/etc/passwd", "../1/net", "01/net", "0/net", "x/net",
        "1/sub/net", "1/.hidden", "1\\net", "1/a\0b", "", "1", "-1/net", "99999999999999999999/net",
        "1/" + "a" * 256, "1/\nnet",
    ],
)  # fmt: skip
async def test_a_file_that_would_lie_elsewhere_is_refused(
    server_of_one: tuple[str, str, Path], place: str
) -> None:
    _, admin, state = server_of_one
    message = request("net", {})
    message.parameters[f"file:{place}"].bytes_param = b"content"
    code, text = await refusal(admin, message, "RepositoryModelLoad")
    assert (code, "must be 'file:VERSION/FILE'" in text) == ("INVALID_ARGUMENT", True), text
    assert not (state / "overrides").exists()


async def test_what_a_load_may_bring_is_said(server_of_one: tuple[str, str, Path]) -> None:
    public, admin, _ = server_of_one
    many = {f"v1_file{number}": b"" for number in range(300)}
    typed = request("net")
    typed.parameters["config"].int64_param = 3
    text_file = request("net", {})
    text_file.parameters["file:1/net"].string_param = "text"
    other = request("net")
    other.parameters["confic"].string_param = "{}"
    deep = request("net")
    deep.parameters["config"].string_param = '{"name":' * 20_000
    for address, message, code, part in (
        (public, request("net", {}, v1_net=b"x"), "UNIMPLEMENTED", "on the admin endpoint only"),
        (admin, request("net", None, v1_net=b"x"), "INVALID_ARGUMENT", "must bring their config"),
        (admin, request("net", {}, **many), "RESOURCE_EXHAUSTED", "at most 256 files, got 301"),
        (admin, typed, "INVALID_ARGUMENT", "must be the JSON of a ModelConfig as string_param"),
        (admin, text_file, "INVALID_ARGUMENT", "must be the file's bytes as bytes_param"),
        (admin, other, "INVALID_ARGUMENT", "unknown load parameter 'confic'"),
        (admin, deep, "INVALID_ARGUMENT", "load parameter 'config': Failed to load JSON"),
        (admin, request("../net", {}, v1_net=b"x"), "NOT_FOUND", "unknown model"),
        (admin, request("nope", {}), "NOT_FOUND", "unknown model"),
    ):
        got, text = await refusal(address, message, "RepositoryModelLoad")
        assert (got, part in text) == (code, True), text
    assert await width(public) == 3


@pytest.fixture(scope="module")
def server_of_one(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server with one model: public address, admin address, state directory."""
    directory = tmp_path_factory.mktemp("one")
    models.linear(directory / "models/net/1/model.onnx")
    with running(directory / "models", directory / "state", *EXPLICIT) as server:
        yield server.public, server.admin, directory / "state"
