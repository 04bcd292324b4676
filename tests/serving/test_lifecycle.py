"""Starting, stopping and restarting a real server, and what it says when it cannot start."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import grpc
import onnx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from onnx.external_data_helper import set_external_data

from server.client import CallFailed, Client, inference_request
from server.config import server_config
from server.pb import open_inference_pb2 as inference
from tests.support import models
from tests.support.calls import floats, refusal
from tests.support.servers import Server, hone, running, serve_command

SLOW = floats(1, 512)


def repository(directory: Path) -> Path:
    models.linear(directory / "linear/1/model.onnx")
    return directory


def start(repository: Path, state: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Start a server that must not come up."""
    return subprocess.run(
        serve_command(repository, state, *flags),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def until_in_flight(server: Server, count: int) -> None:
    """Wait until so many requests to the slow model are accepted and not answered."""
    page = ""
    while f'hone_requests_in_flight{{model="slow",version="1"}} {count}.0' not in page:
        page = await asyncio.to_thread(read, server.metrics)


async def test_sigterm_finishes_what_was_accepted(tmp_path: Path) -> None:
    models.slow(tmp_path / "models/slow/1/model.onnx", rounds=8000)
    with running(tmp_path / "models", tmp_path / "state", "--cpus", "2") as server:
        async with Client(server.public) as client:
            calls = [
                asyncio.create_task(client.infer("slow", {"x": SLOW}, timeout=60)) for _ in range(8)
            ]
            await until_in_flight(server, 8)
            server.process.send_signal(signal.SIGTERM)
            answers = await asyncio.gather(*calls)
        assert len(answers) == 8
        assert await asyncio.to_thread(server.process.wait, 60) == 0


def test_a_server_that_is_still_loading_stops_when_it_is_told_to(tmp_path: Path) -> None:
    for number in range(40):
        models.slow(tmp_path / f"models/slow{number}/1/model.onnx", width=256, rounds=2000)
    process = subprocess.Popen(
        serve_command(tmp_path / "models", tmp_path / "state"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    journal = tmp_path / "state/originals/slow0"
    while not journal.exists():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "")
    assert "Stopping before everything was loaded" in err
    assert "Traceback" not in err


async def test_health_follows_the_life_of_the_server(tmp_path: Path) -> None:
    models.slow(tmp_path / "models/slow/1/model.onnx", rounds=8000)
    with running(tmp_path / "models", tmp_path / "state") as server:
        async with (
            Client(server.public) as client,
            grpc.aio.insecure_channel(server.public) as channel,
        ):
            watch = health_pb2_grpc.HealthStub(channel).Watch(
                health_pb2.HealthCheckRequest(service="")
            )
            states = aiter(watch)
            assert (await anext(states)).status == health_pb2.HealthCheckResponse.SERVING
            call = asyncio.create_task(client.infer("slow", {"x": SLOW}, timeout=60))
            await until_in_flight(server, 1)
            server.process.send_signal(signal.SIGTERM)
            assert (await anext(states)).status == health_pb2.HealthCheckResponse.NOT_SERVING
            with pytest.raises(StopAsyncIteration):
                await anext(states)
            await call


async def test_nobody_who_watches_holds_up_the_end(tmp_path: Path) -> None:
    flags = ("--drain-seconds", "30")
    with running(repository(tmp_path / "models"), tmp_path / "state", *flags) as server:
        async with grpc.aio.insecure_channel(server.public) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(
                health_pb2.HealthCheckRequest(service="")
            )
            assert (await anext(aiter(watch))).status == health_pb2.HealthCheckResponse.SERVING
            server.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(server.process.wait, 20) == 0


async def test_the_end_does_not_wait_for_runs_that_nobody_waits_for(tmp_path: Path) -> None:
    models.slow(tmp_path / "models/slow/1/model.onnx", width=256)
    flags = ("--drain-seconds", "0.2", "--cpus", "1")
    with running(tmp_path / "models", tmp_path / "state", *flags) as server:
        async with Client(server.public) as client:
            call = asyncio.create_task(client.infer("slow", {"x": floats(1 << 15, 256)}))
            await until_in_flight(server, 1)
            server.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(server.process.wait, 20) == 0
            with pytest.raises(CallFailed):
                await call


@pytest.mark.alone  # deadlines are short
async def test_deadlines_and_callers_that_leave_are_counted_as_what_they_are(
    tmp_path: Path,
) -> None:
    models.slow(tmp_path / "models/slow/1/model.onnx", rounds=30_000)
    with running(tmp_path / "models", tmp_path / "state", "--cpus", "1") as server:
        async with Client(server.public) as client:
            busy = asyncio.create_task(client.infer("slow", {"x": SLOW}, timeout=60))
            await asyncio.sleep(0.1)
            with pytest.raises(CallFailed) as late:
                await client.infer("slow", {"x": SLOW}, timeout=0.05)
            assert late.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "an answer would take about" in str(late.value)
            request = inference_request("slow", {"x": SLOW})
            request.parameters["timeout"].int64_param = 50_000
            code, text = await refusal(server.public, request)
            assert (code, "timeout expired" in text) == ("DEADLINE_EXCEEDED", True), text
            assert not busy.done(), "a request that timed out waited for the one that ran"
            gone = asyncio.create_task(client.infer("slow", {"x": SLOW}))
            await asyncio.sleep(0.1)
            gone.cancel()
            await asyncio.wait([gone])
            await busy
            with pytest.raises(CallFailed) as during:
                await client.infer("slow", {"x": SLOW}, timeout=0.1)
            assert during.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
        page = await asyncio.to_thread(read, server.metrics)
    labels = 'hone_requests_total{code="%s",model="slow",variant="original",version="1"} %.1f'
    assert labels % ("RESOURCE_EXHAUSTED", 1) in page
    assert labels % ("DEADLINE_EXCEEDED", 2) in page
    assert labels % ("CANCELLED", 1) in page
    for reason in ("would_be_late", "timeout", "cancelled"):
        assert f'hone_rejected_total{{model="slow",reason="{reason}",version="1"}} 1.0' in page


async def test_a_run_that_nobody_waits_for_frees_its_lane(tmp_path: Path) -> None:
    models.slow(tmp_path / "models/slow/1/model.onnx", width=256)
    rows = floats(1 << 15, 256)
    with running(tmp_path / "models", tmp_path / "state", "--cpus", "1") as server:
        async with Client(server.public) as client:
            started = time.monotonic()
            with pytest.raises(CallFailed):
                await client.infer("slow", {"x": rows}, timeout=0.5)
            gone = asyncio.create_task(client.infer("slow", {"x": rows}))
            await until_in_flight(server, 1)
            gone.cancel()
            await asyncio.wait([gone])
            await until_in_flight(server, 0)
            await client.infer("slow", {"x": floats(1, 256)}, timeout=60)
            assert time.monotonic() - started < 20, "a run of a minute was waited for"


def read(url: str) -> str:
    with urllib.request.urlopen(url) as page:
        return str(page.read().decode())


def test_two_servers_cannot_share_a_state_directory(tmp_path: Path) -> None:
    with running(repository(tmp_path / "models"), tmp_path / "state") as server:
        second = start(tmp_path / "models", tmp_path / "state")
        assert second.returncode == 1
        assert f"another server (process {server.process.pid})" in second.stderr
        assert "--state" in second.stderr
        assert "Traceback" not in second.stderr
        assert hone("health", "--address", server.public).stdout.strip() == "SERVING"


@pytest.mark.parametrize("flag", ["--grpc-port", "--metrics-port", "--admin-port"])
def test_a_port_in_use_is_said(tmp_path: Path, flag: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = start(repository(tmp_path / "models"), tmp_path / "state", flag, port)
    assert done.returncode == 1
    assert port in done.stderr
    assert "choose another" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_repository_that_is_not_there_is_said(tmp_path: Path) -> None:
    done = start(tmp_path / "nowhere", tmp_path / "state")
    assert done.returncode == 1
    assert "is not a directory" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_mistyped_flag_names_the_nearest(tmp_path: Path) -> None:
    done = start(repository(tmp_path / "models"), tmp_path / "state", "--grpc-prot", "1")
    assert done.returncode == 2
    assert "--grpc-port" in done.stderr


def test_a_value_that_does_not_fit_names_the_flag(tmp_path: Path) -> None:
    done = start(repository(tmp_path / "models"), tmp_path / "state", "--jobs", "0")
    assert done.returncode == 1
    assert "--jobs (or HONE_JOBS, or jobs in hone-server.toml)" in done.stderr


def test_a_mistyped_key_in_the_settings_file_names_the_nearest(tmp_path: Path) -> None:
    repository(tmp_path / "models")
    (tmp_path / "hone-server.toml").write_text("keep_variant = 3\n")
    done = subprocess.run(
        serve_command(tmp_path / "models", tmp_path / "state"),
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        check=False,
    )
    assert done.returncode == 1
    assert "did you mean 'keep_variants'?" in done.stderr


async def test_flags_win_over_the_environment_and_the_environment_over_the_file(
    tmp_path: Path,
) -> None:
    here = Path.cwd()
    (tmp_path / "hone-server.toml").write_text("jobs = 2\nkeep_variants = 2\nmax_batch = 2\n")
    os.chdir(tmp_path)
    os.environ.update(HONE_KEEP_VARIANTS="3", HONE_MAX_BATCH="3")
    try:
        config = server_config(repository=tmp_path, max_batch=4)
    finally:
        os.chdir(here)
        del os.environ["HONE_KEEP_VARIANTS"], os.environ["HONE_MAX_BATCH"]
    assert (config.jobs, config.keep_variants, config.max_batch) == (2, 3, 4)


BROKEN = {
    "corrupt": b"this is not a model at all, it is only text",
    "empty": b"",
}


async def test_broken_models_are_explained_and_the_others_serve(tmp_path: Path) -> None:
    folder = repository(tmp_path / "models")
    for name, content in BROKEN.items():
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "1/model.onnx").write_bytes(content)
    whole = models.linear(folder / "truncated/1/model.onnx")
    whole.write_bytes(whole.read_bytes()[:-20])
    new = folder / "new/1/model.onnx"
    models.save(new, [], [], [], opset=99)
    (folder / "config").mkdir()
    models.linear(folder / "config/1/model.onnx")
    (folder / "config/config.pbtxt").write_text('name: "config"\nmax_batch_sise: 4\n')
    (folder / "policy").mkdir()
    models.linear(folder / "policy/1/model.onnx")
    (folder / "policy/hone.yaml").write_text("task: classification\nprofile: {}\n")
    (folder / "hollow").mkdir()
    (folder / "fileless/1").mkdir(parents=True)
    (folder / "..dots").mkdir()
    expected = {
        "corrupt": "not an ONNX model",
        "empty": "empty",
        "truncated": "cut short",
        "new": "operator set 99",
        "config": "config/config.pbtxt:2",
        "policy": "did you mean 'profiles'?",
        "hollow": "no version folder",
        "fileless": "has no model.onnx",
    }
    with running(folder, tmp_path / "state") as server:
        async with Client(server.public) as client:
            index = await client.call(
                "RepositoryIndex",
                inference.RepositoryIndexRequest(),
                inference.RepositoryIndexResponse,
            )
            await client.infer("linear", {"x": floats(1, 4)})
            ready = await client.call(
                "ServerReady", inference.ServerReadyRequest(), inference.ServerReadyResponse
            )
        told = {model.name: model for model in index.models}
        for name, part in expected.items():
            assert told[name].state == "UNAVAILABLE", name
            assert part in told[name].reason, told[name].reason
            assert str(tmp_path) not in told[name].reason
            request = inference_request(name, {"x": floats(1, 4)})
            code, text = await refusal(server.public, request)
            assert code == "UNAVAILABLE", text
        assert ready.ready
        shown = hone("models", admin=server.admin).stdout
        assert all(name in shown for name in expected)
    with running(folder, tmp_path / "state", "--strict-readiness") as server:
        async with Client(server.public) as client:
            ready = await client.call(
                "ServerReady", inference.ServerReadyRequest(), inference.ServerReadyResponse
            )
            assert not ready.ready
            await client.infer("linear", {"x": floats(1, 4)})


@pytest.mark.parametrize(
    ("location", "part"),
    [
        ("../../secret.bin", "outside its own directory"),
        ("/etc/passwd", "outside its own directory"),
        ("missing.bin", "which is missing"),
    ],
)
async def test_external_data_stays_beside_the_model(
    tmp_path: Path, location: str, part: str
) -> None:
    folder = repository(tmp_path / "models")
    (tmp_path / "models/secret.bin").write_bytes(bytes(48))
    file = models.linear(folder / "outside/1/model.onnx")
    model = onnx.load(str(file))
    tensor = model.graph.initializer[0]
    set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    file.write_bytes(model.SerializeToString())
    with running(folder, tmp_path / "state") as server:
        code, text = await refusal(
            server.admin,
            inference.RepositoryModelLoadRequest(model_name="outside"),
            "RepositoryModelLoad",
        )
    assert (code, part in text) == ("FAILED_PRECONDITION", True), (code, text)


async def test_models_are_loaded_updated_and_unloaded_while_others_serve(tmp_path: Path) -> None:
    folder = repository(tmp_path / "models")
    with running(folder, tmp_path / "state") as server:
        models.linear(folder / "late/1/model.onnx")
        assert hone("load", "late", admin=server.admin).returncode == 0
        models.linear(folder / "late/2/model.onnx", seed=3)
        assert hone("load", "late", admin=server.admin).returncode == 0
        async with Client(server.public) as client:
            request = inference_request("late", {"x": floats(1, 4)})
            response = await client.call("ModelInfer", request, inference.ModelInferResponse)
            assert response.model_version == "2"
            assert hone("unload", "late", admin=server.admin).returncode == 0
            with pytest.raises(CallFailed, match="no available versions"):
                await client.infer("late", {"x": floats(1, 4)})
            await client.infer("linear", {"x": floats(1, 4)})
        unload = inference.RepositoryModelUnloadRequest(model_name="linear")
        code, text = await refusal(server.public, unload, "RepositoryModelUnload")
        assert (code, "--model-control explicit" in text) == ("FAILED_PRECONDITION", True)
        for name in ("../linear", "a/b", "nope"):
            load = inference.RepositoryModelLoadRequest(model_name=name)
            code, text = await refusal(server.admin, load, "RepositoryModelLoad")
            assert (code, "unknown model" in text) == ("NOT_FOUND", True), text


def test_the_serving_process_loads_neither_torch_nor_onnx(tmp_path: Path) -> None:
    code = (
        "import sys, server.cli; "
        "print([name for name in ('torch', 'onnx', 'onnx_ir', 'scipy', 'optuna') "
        "if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
    with running(repository(tmp_path / "models"), tmp_path / "state") as server:
        mapped = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "onnxruntime" in mapped
    assert "libtorch" not in mapped
    assert "onnx_cpp2py" not in mapped


def test_a_read_only_repository_is_served_and_left_as_it_is(tmp_path: Path) -> None:
    folder = repository(tmp_path / "models")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    with running(folder, tmp_path / "state") as server:
        assert hone("infer", "linear", "--address", server.public).returncode == 0
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
