"""A server computes where it was told to, says so, and starts not at all when it cannot."""

from __future__ import annotations

import subprocess
import urllib.request
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from optimizers.contract.provider_options import EXECUTION_PROVIDERS
from server.client import Client
from tests.support import models
from tests.support.servers import Server, hone, running, serve_command


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    models.linear(tmp_path / "models/linear/1/model.onnx")
    return tmp_path / "models"


def metrics(server: Server) -> str:
    with urllib.request.urlopen(server.metrics) as answer:
        return str(answer.read().decode())


async def test_auto_takes_what_works_here_says_so_and_serves(
    repository: Path, tmp_path: Path
) -> None:
    with running(repository, tmp_path / "state", "--provider", "auto") as server:
        async with Client(server.public) as client:
            answers, _ = await client.infer("linear", {"x": np.zeros((2, 4), np.float32)})
        np.testing.assert_allclose(answers["y"], [[0, 1, 2]] * 2, atol=1e-5)
        told = [line for line in server.log if "Models compute on" in line]
        shown = [
            line for line in metrics(server).splitlines() if line.startswith("hone_provider_info{")
        ]
    assert len(told) == 1
    assert len(shown) == 1
    provider = told[0].split("Models compute on ")[1].split(":")[0]
    assert f'provider="{provider}"' in shown[0]


def test_the_usual_provider_is_the_processor(repository: Path, tmp_path: Path) -> None:
    with running(repository, tmp_path / "state") as server:
        assert 'hone_provider_info{device="cpu",provider="cpu"} 1.0' in metrics(server)
        assert not any("Models compute on" in line for line in server.log)


def test_a_provider_that_is_missing_ends_the_start_with_one_line(
    repository: Path, tmp_path: Path
) -> None:
    available = onnxruntime.get_available_providers()
    missing = next(one for one, name in EXECUTION_PROVIDERS.items() if name not in available)
    ended = subprocess.run(
        serve_command(repository, tmp_path / "state", "--provider", missing),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert f"hone: provider {missing} needs {EXECUTION_PROVIDERS[missing]}" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_unknown_provider_is_refused_with_those_there_are(
    repository: Path, tmp_path: Path
) -> None:
    ended = hone("serve", str(repository), "--state", str(tmp_path / "s"), "--provider", "tpu")
    assert ended.returncode == 1
    for known in (*EXECUTION_PROVIDERS, "auto"):
        assert f"'{known}'" in ended.stderr


async def test_openvino_serves_and_a_model_beyond_it_is_refused_by_name(
    repository: Path, tmp_path: Path
) -> None:
    if EXECUTION_PROVIDERS["openvino"] not in onnxruntime.get_available_providers():
        pytest.skip("NOT TESTED ON OPENVINO: needs onnxruntime-openvino in place of onnxruntime")
    models.identity(repository / "texts/1/model.onnx", 8)
    models.identity(repository / "allowed/1/model.onnx", 8)
    (repository / "allowed/config.pbtxt").write_text(
        'parameters { key: "allow_provider_fallback" value { string_value: "true" } }'
    )
    with running(repository, tmp_path / "state", "--provider", "openvino") as server:
        async with Client(server.public) as client:
            answers, _ = await client.infer("linear", {"x": np.zeros((2, 4), np.float32)})
            texts = {"x": np.array([["a", "b", "c"]], object)}
            allowed, _ = await client.infer("allowed", texts)
        listed = hone("models", admin=server.admin).stdout
    np.testing.assert_allclose(answers["y"], [[0, 1, 2]] * 2, atol=1e-5)
    assert allowed["y"].tolist() == [[b"a", b"b", b"c"]]
    assert "Identity" in listed


@pytest.mark.parametrize("text", ["yes", "", "TRUE"])
def test_a_word_that_is_neither_true_nor_false_is_refused(
    repository: Path, tmp_path: Path, text: str
) -> None:
    (repository / "linear/config.pbtxt").write_text(
        f'parameters {{ key: "allow_provider_fallback" value {{ string_value: "{text}" }} }}'
    )
    with running(repository, tmp_path / "state") as server:
        listed = hone("models", admin=server.admin).stdout
    assert "allow_provider_fallback must be true or false" in " ".join(listed.split())
