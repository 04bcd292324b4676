"""Models that are opened when asked for, and let go when idle or when memory is short."""

from __future__ import annotations

import asyncio
import itertools
import time
import urllib.request
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest

from server.client import CallFailed, Client, inference_request
from server.pb import open_inference_pb2 as inference
from tests.support import models
from tests.support.calls import floats, index, refusal, variants
from tests.support.servers import Server, hone, running, serve_command

WIDTH = 1024
X = floats(1, WIDTH)
ONE_FITS = ("--memory-budget", "6MiB")
"""A model of `repository` has 4 MiB of weights: one is within the budget, two are not."""

AT_ONCE = (*ONE_FITS, "--keep-loaded-seconds", "0")
BUDGET = ("UNAVAILABLE", "unloaded: memory budget")
IDLE = ("UNAVAILABLE", "unloaded: idle")
READY = ("READY", "")


def repository(directory: Path, *names: str) -> Path:
    for name in names:
        models.linear(directory / name / "1/model.onnx", inputs=WIDTH, outputs=WIDTH)
    return directory


async def states(server: Server) -> dict[str, tuple[str, str]]:
    """Name → state and reason."""
    return {name: told for (name, _), told in (await index(server.public)).items()}


async def until(server: Server, name: str, told: tuple[str, str]) -> None:
    async with asyncio.timeout(30):
        while (await states(server))[name] != told:
            await asyncio.sleep(0.05)


async def page(server: Server) -> str:
    def read() -> str:
        with urllib.request.urlopen(server.metrics, timeout=10) as response:
            return str(response.read().decode())

    return await asyncio.to_thread(read)


async def is_ready(client: Client, name: str) -> bool:
    request = inference.ModelReadyRequest(name=name)
    return (await client.call("ModelReady", request, inference.ModelReadyResponse)).ready


async def test_what_does_not_fit_is_opened_for_the_first_request(tmp_path: Path) -> None:
    folder = repository(tmp_path / "models", "a", "b", "c")
    flags = (*AT_ONCE, "--strict-readiness")
    with running(folder, tmp_path / "state", *flags) as server:
        assert await states(server) == {"a": READY, "b": BUDGET, "c": BUDGET}
        async with Client(server.public) as client:
            assert await client.is_serving()
            for name in ("a", "b", "c"):
                assert await is_ready(client, name)
            assert await states(server) == {"a": READY, "b": BUDGET, "c": BUDGET}
            answers = await asyncio.gather(*(client.infer("b", {"x": X}) for _ in range(20)))
            assert len({array["y"].tobytes() for array, _ in answers}) == 1
            assert await states(server) == {"a": BUDGET, "b": READY, "c": BUDGET}
            assert (await client.signature("c")).inputs[0].shape == (-1, WIDTH)
            assert await states(server) == {"a": BUDGET, "b": BUDGET, "c": READY}
        assert [one.id for one in await variants(server.admin, "a")] == ["original"]
        assert await states(server) == {"a": READY, "b": BUDGET, "c": BUDGET}
        opened = [line for line in server.log if "is opened for a request" in line]
        assert [name for line in opened for name in "abc" if f"model {name} " in line] == list(
            "bca"
        )
        counted = await page(server)
        for name in ("a", "b", "c"):
            labels = f'{{model="{name}",reason="memory_budget"}}'
            assert f"hone_models_unloaded_total{labels} 1.0" in counted
        assert "unloaded: memory budget" in hone("models", admin=server.admin).stdout


async def test_requests_for_two_models_that_do_not_fit_together_are_all_answered(
    tmp_path: Path,
) -> None:
    folder = repository(tmp_path / "models", "a", "b")
    with running(folder, tmp_path / "state", *AT_ONCE) as server:
        async with Client(server.public) as client:
            calls = [client.infer("ab"[number % 2], {"x": X}) for number in range(20)]
            assert len(await asyncio.gather(*calls)) == 20
        ready = [name for name, told in (await states(server)).items() if told == READY]
        assert len(ready) == 1


async def test_a_model_with_a_request_in_flight_stays(tmp_path: Path) -> None:
    folder = repository(tmp_path / "models", "b")
    models.slow(folder / "a/1/model.onnx", width=WIDTH, rounds=300)
    with running(folder, tmp_path / "state", *AT_ONCE) as server:
        async with Client(server.public) as client:
            first = asyncio.create_task(client.infer("a", {"x": X}))
            in_flight = 'hone_requests_in_flight{model="a",version="1"} 1.0'
            while in_flight not in await page(server):
                assert not first.done()
            second = asyncio.create_task(client.infer("b", {"x": X}))
            while not first.done():
                told = await states(server)
                assert first.done() or (told["a"], told["b"]) == (READY, BUDGET)
                await asyncio.sleep(0.02)
            await first
            await second
        assert await states(server) == {"a": BUDGET, "b": READY}


async def test_a_model_is_kept_for_a_while_before_another_takes_its_place(tmp_path: Path) -> None:
    folder = repository(tmp_path / "models", "a", "b")
    flags = (*ONE_FITS, "--keep-loaded-seconds", "0.8")
    with running(folder, tmp_path / "state", *flags) as server:
        async with Client(server.public) as client:
            await client.infer("b", {"x": X})
            start = time.monotonic()
            opened = []
            for name in itertools.islice(itertools.cycle("ab"), 4):
                await client.infer(name, {"x": X})
                opened.append(time.monotonic() - start)
            assert all(later - sooner >= 0.6 for sooner, later in itertools.pairwise(opened))


async def test_requests_that_wait_for_room_are_bounded_and_keep_their_deadlines(
    tmp_path: Path,
) -> None:
    folder = repository(tmp_path / "models", "a", "b")
    flags = (*ONE_FITS, "--keep-loaded-seconds", "1000", "--max-queue-items", "2")
    with running(folder, tmp_path / "state", *flags) as server:
        async with Client(server.public) as client:
            waiting = [
                asyncio.create_task(client.infer("b", {"x": X}, timeout=2)) for _ in range(2)
            ]
            await asyncio.sleep(0.5)
            code, text = await refusal(server.public, inference_request("b", {"x": X}))
            assert (code, "wait for models" in text) == ("RESOURCE_EXHAUSTED", True), text
            await client.infer("a", {"x": X})
            for ended in await asyncio.gather(*waiting, return_exceptions=True):
                assert isinstance(ended, CallFailed)
                assert ended.code.name == "DEADLINE_EXCEEDED"
        assert await states(server) == {"a": READY, "b": BUDGET}


async def test_what_is_idle_goes_and_comes_back_and_what_is_unloaded_stays_out(
    tmp_path: Path,
) -> None:
    folder = repository(tmp_path / "models", "a", "b")
    with running(folder, tmp_path / "state", "--idle-unload-seconds", "1") as server:
        async with Client(server.public) as client:
            for _ in range(15):
                await client.infer("b", {"x": X})
                await asyncio.sleep(0.1)
            await until(server, "a", IDLE)
            await until(server, "b", IDLE)
            labels = '{model="a",reason="idle"}'
            assert f"hone_models_unloaded_total{labels} 1.0" in await page(server)
            await client.infer("a", {"x": X})
            assert (await states(server))["a"] == READY
            assert hone("unload", "b", admin=server.admin).returncode == 0
            with pytest.raises(CallFailed, match="no available versions"):
                await client.infer("b", {"x": X})
            assert hone("load", "b", admin=server.admin).returncode == 0
            await client.infer("b", {"x": X})


async def test_a_model_that_is_in_use_is_not_idle(tmp_path: Path) -> None:
    folder = repository(tmp_path / "models", "a")
    with running(folder, tmp_path / "state", "--idle-unload-seconds", "0.5") as server:
        async with Client(server.public) as client:
            for _ in range(20):
                await client.infer("a", {"x": X})
                await asyncio.sleep(0.1)
        assert "hone_models_unloaded_total{" not in await page(server)


async def test_a_model_that_cannot_be_opened_any_more_says_why_and_is_tried_once(
    tmp_path: Path,
) -> None:
    folder = repository(tmp_path / "models", "a", "b")
    with running(folder, tmp_path / "state", *AT_ONCE) as server:
        (folder / "b/1/model.onnx").write_bytes(b"this is not a model")
        request = inference_request("b", {"x": X})
        code, text = await refusal(server.public, request)
        assert (code, "not an ONNX model" in text) == ("UNAVAILABLE", True), text
        state, reason = (await states(server))["b"]
        assert (state, "not an ONNX model" in reason) == ("UNAVAILABLE", True)
        code, text = await refusal(server.public, request)
        assert (code, "no available versions" in text) == ("UNAVAILABLE", True), text
        assert sum("is opened for a request" in line for line in server.log) == 1
        async with Client(server.public) as client:
            await client.infer("a", {"x": X})


@pytest.mark.parametrize("value", ["much", "1.5GiB", "-1", "2 GB", "99999999999999999 TiB"])
def test_a_budget_that_is_no_size_is_refused(tmp_path: Path, value: str) -> None:
    folder = repository(tmp_path / "models", "a")
    ended = hone(*serve_command(folder, tmp_path / "state", "--memory-budget", value)[3:])
    assert ended.returncode == 1
    assert "--memory-budget (or HONE_MEMORY_BUDGET" in ended.stderr


async def test_loads_unloads_and_requests_in_any_order_end_in_answers_or_reasons(
    tmp_path: Path,
) -> None:
    folder = repository(tmp_path / "models", "a", "b", "c")
    flags = (*AT_ONCE, "--idle-unload-seconds", "0.2", "--model-control", "poll")
    random = Random(7)
    outcomes: Counter[str] = Counter()
    with running(folder, tmp_path / "state", *flags, "--poll-seconds", "0.1") as server:
        client, admin = Client(server.public), Client(server.admin)
        async with client, admin:
            wanted = {name: (await client.infer(name, {"x": X}))[0]["y"] for name in "abc"}
            end = time.monotonic() + 4

            async def ask() -> None:
                while time.monotonic() < end:
                    name = random.choice("abc")
                    try:
                        answers, _ = await client.infer(name, {"x": X}, timeout=30)
                    except CallFailed as error:
                        outcomes[error.code.name] += 1
                    else:
                        assert np.array_equal(answers["y"], wanted[name])
                        outcomes["answered"] += 1
                    await asyncio.sleep(random.random() * 0.1)

            async def change() -> None:
                while time.monotonic() < end:
                    name = random.choice("abc")
                    if random.random() < 0.5:
                        unload = inference.RepositoryModelUnloadRequest(model_name=name)
                        answer = inference.RepositoryModelUnloadResponse
                        await admin.call("RepositoryModelUnload", unload, answer)
                    load = inference.RepositoryModelLoadRequest(model_name=name)
                    await admin.call(
                        "RepositoryModelLoad", load, inference.RepositoryModelLoadResponse
                    )
                    (folder / name / "config.pbtxt").write_text("max_batch_size: 0\n")
                    await asyncio.sleep(random.random() * 0.2)

            await asyncio.gather(*(ask() for _ in range(6)), change(), change())
            for name in "abc":
                assert np.array_equal((await client.infer(name, {"x": X}))[0]["y"], wanted[name])
    assert outcomes["answered"] > 20, outcomes
    assert set(outcomes) <= {"answered", "UNAVAILABLE"}, outcomes
    assert not [line for line in server.log if "Traceback" in line], "".join(server.log)
