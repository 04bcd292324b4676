"""`model.pt2`: refused unless allowed, converted apart from the server, served like any model."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import torch

from server.client import Client
from server.pb import open_inference_pb2 as inference
from tests.support import models
from tests.support.calls import floats, index, infer, linear_request, refusal
from tests.support.programs import SmallNetwork, hostile_program, save_program, small_network
from tests.support.servers import Server, hone, running

LONG_S = 150
ALLOWED = "--allow-pt2"


def planted(marker: Path, then: str = "raise RuntimeError('planted')") -> str:
    """Code that writes down which process runs it."""
    return f"import os, sys, time\nopen({str(marker)!r}, 'a').write(f'{{os.getpid()}} ')\n{then}"


async def until(question: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(LONG_S):
        while not await question():
            await asyncio.sleep(0.1)


async def standing(server: Server, name: str) -> tuple[str, str]:
    """The state of version 1 and its reason."""
    return (await index(server.public)).get((name, "1"), ("", ""))


async def settled(server: Server, name: str) -> tuple[str, str]:
    """The state of version 1 once it is ready or is not going to be."""

    async def has_settled() -> bool:
        return (await standing(server, name))[0] in ("READY", "UNAVAILABLE")

    await until(has_settled)
    return await standing(server, name)


async def ran(marker: Path) -> list[int]:
    """The processes that ran planted code, once there is one."""

    async def has_run() -> bool:
        return marker.exists() and marker.read_text().endswith(" ")

    await until(has_run)
    return [int(process) for process in marker.read_text().split()]


def is_gone(process: int) -> bool:
    """Whether a process has ended, reaped or not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def agree(server: Server, rows: int) -> None:
    """The served network answers as torch does."""
    image = floats(rows, 1, 8, 8, seed=rows)
    async with Client(server.public) as client:
        answers, variant = await client.infer("network", {"image": image})
    with torch.no_grad():
        expected = SmallNetwork().eval()(torch.from_numpy(image)).numpy()
    assert variant == "original"
    np.testing.assert_allclose(answers["output_0"], expected, atol=1e-5)


async def test_without_the_flag_a_program_is_refused_and_nothing_in_it_runs(
    tmp_path: Path,
) -> None:
    folder, marker = tmp_path / "models", tmp_path / "marker"
    hostile_program(folder / "hostile/1/model.pt2", planted(marker))
    models.linear(folder / "linear/1/model.onnx")
    with running(folder, tmp_path / "state") as server:
        state, reason = await standing(server, "hostile")
        assert state == "UNAVAILABLE"
        for told in ("hostile/1 holds model.pt2", "model.onnx", "--allow-pt2", "can run code"):
            assert told in reason
        assert "--allow-pt2" in hone("models", "--json", admin=server.admin).stdout
        await infer(server.public, linear_request())
    assert not marker.exists()
    assert not (tmp_path / "state/converted").exists()


async def test_a_program_is_converted_once_and_answers_as_torch_does(tmp_path: Path) -> None:
    folder, state = tmp_path / "models", tmp_path / "state"
    program = small_network(folder / "network/1/model.pt2")
    small_network(folder / "fixed/1/model.pt2", fixed_rows=3)
    models.linear(folder / "linear/1/model.onnx")
    before = sorted(folder.rglob("*"))
    with running(folder, state, ALLOWED) as server:
        # The Ready line is out: nobody waits for conversions, and others are served meanwhile.
        await infer(server.public, linear_request())
        told, reason = await standing(server, "network")
        assert told == "LOADING"
        assert "conver" in reason
        assert (await settled(server, "network"))[0] == "READY", server.log
        await agree(server, 1)
        await agree(server, 5)
        assert (await settled(server, "fixed"))[0] == "READY", server.log
        listed = json.loads(hone("models", "--json", admin=server.admin).stdout)
        assert "exported for 3 rows exactly" in str(listed)
        async with Client(server.public) as client:
            answers, _ = await client.infer("fixed", {"image": floats(3, 1, 8, 8)})
            assert answers["output_0"].shape == (3, 10)
        maps = Path(f"/proc/{server.process.pid}/maps").read_text()
        assert "libtorch" not in maps
    assert sorted(folder.rglob("*")) == before
    (made,) = state.glob("converted/network/1/*/model.onnx")
    written = made.stat().st_mtime_ns
    with running(folder, state, ALLOWED) as server:
        assert (await standing(server, "network"))[0] == "READY"  # no conversion to wait for
        await agree(server, 2)
        assert made.stat().st_mtime_ns == written
        # What serves goes on while its successor is made, and when that fails.
        program.write_bytes(program.read_bytes()[:5000])
        load = inference.RepositoryModelLoadRequest(model_name="network")
        _, text = await refusal(server.admin, load, "RepositoryModelLoad")
        assert "cannot be read as a program of torch.export" in text
        await agree(server, 1)


async def test_what_a_hostile_program_runs_does_not_run_in_the_server(tmp_path: Path) -> None:
    folder, marker = tmp_path / "models", tmp_path / "marker"
    plant_link = (
        "target = sys.argv[-1]\nos.makedirs(target, exist_ok=True)\n"
        f"os.symlink({str(folder / 'linear/1/model.onnx')!r}, target + '/model.onnx')\n"
        "os.mkfifo(target + '/conversion.json')\nos._exit(0)"
    )
    hostile_program(folder / "raises/1/model.pt2", planted(marker))
    hostile_program(folder / "plants/1/model.pt2", planted(tmp_path / "plants", plant_link))
    secret = f"open({str(tmp_path / 'seen')!r}, 'w').write(str(os.environ))\nos._exit(5)"
    hostile_program(folder / "spies/1/model.pt2", planted(tmp_path / "spies", secret))
    models.linear(folder / "linear/1/model.onnx")
    environment = {"HONE_TEST_SECRET": "a password"}
    with running(folder, tmp_path / "state", ALLOWED, environment=environment) as server:
        state, reason = await settled(server, "raises")
        assert state == "UNAVAILABLE"
        assert "model.pt2 was not converted" in reason
        processes = await ran(marker)
        assert server.process.pid not in processes
        assert os.getpid() not in processes
        assert all(map(is_gone, processes))
        state, reason = await settled(server, "plants")
        assert (state, "model.pt2 was not converted" in reason) == ("UNAVAILABLE", True)
        state, reason = await settled(server, "spies")
        assert (state, "status 5" in reason) == ("UNAVAILABLE", True)
        assert "a password" not in (tmp_path / "seen").read_text()
        await infer(server.public, linear_request())
        assert server.process.poll() is None
    assert not list((tmp_path / "state/converted").glob("*"))


async def test_a_conversion_that_is_killed_is_a_failed_model(tmp_path: Path) -> None:
    folder, marker = tmp_path / "models", tmp_path / "marker"
    hostile_program(folder / "killed/1/model.pt2", planted(marker, "time.sleep(1000)"))
    with running(folder, tmp_path / "state", ALLOWED) as server:
        (process,) = await ran(marker)
        os.kill(process, signal.SIGKILL)
        state, reason = await settled(server, "killed")
        assert (state, "SIGKILL" in reason) == ("UNAVAILABLE", True)
        assert "--convert-memory-bytes" in reason


async def test_a_conversion_that_hangs_is_ended_at_its_limit(tmp_path: Path) -> None:
    folder, marker = tmp_path / "models", tmp_path / "marker"
    hostile_program(folder / "hangs/1/model.pt2", planted(marker, "time.sleep(1000)"))
    with running(folder, tmp_path / "state", ALLOWED, "--convert-seconds", "8") as server:
        state, reason = await settled(server, "hangs")
        assert (state, "longer than 8 s" in reason) == ("UNAVAILABLE", True)
        # On a busy machine its time is up before anything planted runs.
        processes = marker.read_text().split() if marker.exists() else []
        assert all(is_gone(int(process)) for process in processes)


async def test_a_conversion_ends_with_its_server(tmp_path: Path) -> None:
    folder, marker = tmp_path / "models", tmp_path / "marker"
    hostile_program(folder / "hangs/1/model.pt2", planted(marker, "time.sleep(1000)"))
    for number in (signal.SIGTERM, signal.SIGKILL):
        marker.unlink(missing_ok=True)
        with running(folder, tmp_path / "state", ALLOWED) as server:
            (process,) = await ran(marker)
            server.stop(number)

            async def has_ended(process: int = process) -> bool:
                return is_gone(process)

            await until(has_ended)
    with running(folder, tmp_path / "state") as server:
        assert not list((tmp_path / "state/converted").iterdir())


async def test_poll_converts_a_changed_program_anew(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    path = folder / "product/1/model.pt2"
    save_program(path, torch.nn.Linear(4, 2), (torch.zeros(2, 4),), ({0: torch.export.Dim("n")},))
    poll = (ALLOWED, "--model-control", "poll", "--poll-seconds", "0.3")

    async def width(server: Server) -> int:
        async with Client(server.public) as client:
            answers, _ = await client.infer("product", {"input": floats(1, 4)})
        return int(answers["output_0"].shape[1])

    with running(folder, tmp_path / "state", *poll) as server:
        assert (await settled(server, "product"))[0] == "READY", server.log
        assert await width(server) == 2
        save_program(
            path, torch.nn.Linear(4, 3), (torch.zeros(2, 4),), ({0: torch.export.Dim("n")},)
        )

        async def is_wider() -> bool:
            return await width(server) == 3

        await until(is_wider)


async def test_an_unload_or_another_program_ends_a_conversion_under_way(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    path = hostile_program(folder / "hangs/1/model.pt2", planted(first, "time.sleep(1000)"))
    poll = (ALLOWED, "--model-control", "poll", "--poll-seconds", "0.3")
    with running(folder, tmp_path / "state", *poll) as server:
        (process,) = await ran(first)
        hostile_program(path, planted(second, "time.sleep(1000)"))
        (successor,) = await ran(second)
        assert is_gone(process)
        unload = inference.RepositoryModelUnloadRequest(model_name="hangs")
        async with Client(server.admin) as client:
            await client.call(
                "RepositoryModelUnload",
                unload,
                inference.RepositoryModelUnloadResponse,
                timeout=LONG_S,
            )
        assert is_gone(successor)
        assert (await standing(server, "hangs"))[0] != "LOADING"
        hostile_program(path, planted(third, "time.sleep(1000)"))
        (last,) = await ran(third)
        shutil.rmtree(folder / "hangs")

        async def is_forgotten() -> bool:
            return ("hangs", "1") not in await index(server.public)

        await until(is_forgotten)
        assert is_gone(last)
