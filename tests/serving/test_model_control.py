"""Which models are loaded, and when: at start, when asked for, when the repository changes."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from server.app import App
from server.client import CallFailed, Client
from server.config import server_config
from server.pb import open_inference_pb2 as inference
from server.registry import State
from tests.support import models
from tests.support.calls import floats, index, refusal
from tests.support.servers import Server, hone, running, serve_command

POLL = ("--model-control", "poll", "--poll-seconds", "0.2")
LONG_S = 30
SLOW_TO_WARM = (
    'max_batch_size: 8\nmodel_warmup { name: "slow" batch_size: 8 count: 40 '
    'inputs { key: "x" value { data_type: TYPE_FP32 dims: [ 64 ] zero_data: true } } }\n'
)


async def until(question: Callable[[], Awaitable[bool]]) -> None:
    """Wait until the answer is yes."""
    async with asyncio.timeout(LONG_S):
        while not await question():
            await asyncio.sleep(0.05)


async def stands(server: Server, name: str, version: str, state: str) -> bool:
    """Whether a version is in a state now."""
    return (await index(server.public)).get((name, version), ("", ""))[0] == state


async def version_of(server: Server, name: str, address: str = "") -> str:
    """The version that answers."""
    async with Client(server.public) as client:
        request = inference.ModelMetadataRequest(name=name, version=address)
        await client.call("ModelMetadata", request, inference.ModelMetadataResponse)
        answers, _ = await client.infer(name, {"x": floats(1, 4)}, version=address)
    return str(answers["y"].shape[1])


def save(path: Path, outputs: int) -> Path:
    """A model that tells by the width of its answer which one it is."""
    return models.linear(path, outputs=outputs)


async def test_poll_follows_new_changed_and_removed_models(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    save(folder / "old/1/model.onnx", 1)
    save(folder / "gone/1/model.onnx", 1)
    with running(folder, tmp_path / "state", *POLL) as server:
        assert await version_of(server, "old") == "1"
        save(folder / "new/1/model.onnx", 5)
        await until(lambda: stands(server, "new", "1", "READY"))
        assert await version_of(server, "new") == "5"
        save(folder / "old/2/model.onnx", 2)
        await until(lambda: stands(server, "old", "2", "READY"))
        assert await version_of(server, "old") == "2"
        (folder / "old/config.pbtxt").write_text("version_policy { specific { versions: [ 1 ] } }")
        await until(lambda: stands(server, "old", "1", "READY"))
        await until(lambda: stands(server, "old", "2", "UNAVAILABLE"))
        assert await version_of(server, "old") == "1"
        shutil.rmtree(folder / "gone")

        async def forgotten() -> bool:
            return ("gone", "1") not in await index(server.public)

        await until(forgotten)
        assert not any("Traceback" in line for line in server.log)


async def test_what_is_half_written_takes_nothing_down(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    save(folder / "net/1/model.onnx", 1)
    whole = save(tmp_path / "whole.onnx", 2).read_bytes()
    file = folder / "net/2/model.onnx"
    with running(folder, tmp_path / "state", *POLL) as server:
        file.parent.mkdir()
        file.write_bytes(whole[:-20])
        await until(lambda: stands(server, "net", "2", "UNAVAILABLE"))
        assert await version_of(server, "net") == "1"
        assert "cut short" in (await index(server.public))["net", "2"][1]
        file.write_bytes(whole)
        await until(lambda: stands(server, "net", "2", "READY"))
        assert await version_of(server, "net") == "2"
        # The file that serves is overwritten by something that is no model.
        file.write_bytes(b"this is not a model")

        async def refused() -> bool:
            return any("not an ONNX model" in line for line in server.log)

        await until(refused)
        assert await version_of(server, "net") == "2"


async def test_what_keeps_changing_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    save(folder / "net/1/model.onnx", 1)
    whole = save(tmp_path / "whole.onnx", 2).read_bytes()
    with running(folder, tmp_path / "state", *POLL) as server:
        file = folder / "net/2/model.onnx"
        file.parent.mkdir()
        with file.open("wb") as written:
            for byte in range(20):
                written.write(whole[byte : byte + 1])
                written.flush()
                await asyncio.sleep(0.1)
            assert ("net", "2") not in await index(server.public)
            written.write(whole[20:])
        await until(lambda: stands(server, "net", "2", "READY"))


async def test_under_explicit_control_only_what_is_asked_for_is_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    for name in ("one", "two", "three"):
        save(folder / name / "1/model.onnx", 1)
    (folder / "broken/1").mkdir(parents=True)
    flags = ("--strict-readiness", "--model-control", "explicit")
    chosen = ("--load-model", "one", "--load-model", "two")
    with running(folder, tmp_path / "state", *flags, *chosen) as server:
        states = await index(server.public)
        assert states["one", "1"][0] == states["two", "1"][0] == "READY"
        assert states["three", ""] == ("UNAVAILABLE", "")
        async with Client(server.public) as client:
            assert await client.is_serving()
            with pytest.raises(CallFailed, match="no available versions"):
                await client.infer("three", {"x": floats(1, 4)})
            await client.call(
                "RepositoryModelLoad",
                inference.RepositoryModelLoadRequest(model_name="three"),
                inference.RepositoryModelLoadResponse,
            )
            await client.infer("three", {"x": floats(1, 4)})
        broken = inference.RepositoryModelLoadRequest(model_name="broken")
        code, _ = await refusal(server.public, broken, "RepositoryModelLoad")
        assert code == "FAILED_PRECONDITION"
    with running(folder, tmp_path / "state", *flags, "--load-model", "*") as server:
        states = await index(server.public)
        assert [states[name, "1"][0] for name in ("one", "two", "three")] == ["READY"] * 3
        assert states["broken", "1"][0] == "UNAVAILABLE"
    environment = {"HONE_LOAD_MODEL": "two,three", "HONE_MODEL_CONTROL": "explicit"}
    with running(folder, tmp_path / "state", environment=environment) as server:
        states = await index(server.public)
        assert states["one", ""] == ("UNAVAILABLE", "")
        assert [states[name, "1"][0] for name in ("two", "three")] == ["READY"] * 2


def test_models_to_load_need_explicit_control(tmp_path: Path) -> None:
    folder = save(tmp_path / "models/net/1/model.onnx", 1).parents[2]
    command = serve_command(folder, tmp_path / "state", "--load-model", "net")
    ended = hone(*command[3:])
    assert ended.returncode == 1
    assert "--load-model needs --model-control explicit, got none" in ended.stderr


async def test_labels_and_policies_choose_the_version_that_answers(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    for number in (1, 2, 3):
        save(folder / f"net/{number}/model.onnx", number)
    (folder / "net/config.pbtxt").write_text("version_policy { all { } }")
    (folder / "net/hone.yaml").write_text("labels: {stable: 1, canary: 3}\n")
    with running(folder, tmp_path / "state") as server:
        for address, version in (("", "3"), ("2", "2"), ("stable", "1"), ("canary", "3")):
            assert await version_of(server, "net", address) == version
        assert await version_of(server, "net", "stable@original") == "1"
        request = inference.ModelReadyRequest(name="net", version="staging")
        code, _ = await refusal(server.public, request, "ModelReady")
        assert code == "NOT_FOUND"
        (folder / "net/hone.yaml").write_text("labels: {stable: 2, canary: 3}\n")
        (folder / "net/config.pbtxt").write_text("version_policy { latest { num_versions: 2 } }")
        assert hone("load", "net", admin=server.admin).returncode == 0
        assert await version_of(server, "net", "stable") == "2"
        request = inference.ModelReadyRequest(name="net", version="1")
        code, _ = await refusal(server.public, request, "ModelReady")
        assert code == "UNAVAILABLE"


@pytest.mark.parametrize("most", [1, 2])
async def test_so_many_models_are_loaded_at_once_and_no_more(tmp_path: Path, most: int) -> None:
    folder = tmp_path / "models"
    for number in range(4):
        models.slow(folder / f"slow{number}/1/model.onnx", width=64, rounds=400)
        (folder / f"slow{number}/config.pbtxt").write_text(SLOW_TO_WARM)
    (folder / "broken/1").mkdir(parents=True)
    app = App(server_config(repository=folder, state=tmp_path / "state", cpus=2, load_threads=most))
    told: list[str] = []

    async def listen(model: object) -> None:
        told.append("begins")
        await asyncio.sleep(0.01)
        told.append("ends")

    app.loading.on_load(listen)
    await app.loading.scan()
    loading = asyncio.create_task(app.loading.load_all())
    at_once = 0
    while not loading.done():
        states = [standing.state for _, _, standing in app.registry.standings()]
        at_once = max(at_once, states.count(State.LOADING))
        await asyncio.sleep(0.005)
    await loading
    ready = {name: standing.state for name, _, standing in app.registry.standings()}
    await app.loading.close()
    app.journal.close()
    app.store.close()
    assert at_once == most
    assert told == ["begins", "ends"] * 4
    assert ready.pop("broken") is State.UNAVAILABLE
    assert set(ready.values()) == {State.READY}
