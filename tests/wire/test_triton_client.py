"""A stock tritonclient, in an environment of its own, against a real server."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
from onnx import TensorProto

from tests.support import models
from tests.support.servers import running

CALLS = Path(__file__).with_name("triton_calls.py")
REQUIREMENT = "tritonclient[grpc]==2.73.0"
KINDS = {
    "fp16": TensorProto.FLOAT16,
    "fp32": TensorProto.FLOAT,
    "fp64": TensorProto.DOUBLE,
    "int8": TensorProto.INT8,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
    "uint16": TensorProto.UINT16,
    "uint32": TensorProto.UINT32,
    "uint64": TensorProto.UINT64,
    "bool": TensorProto.BOOL,
    "bytes": TensorProto.STRING,
}


@pytest.fixture(scope="session")
def triton_python() -> str:
    """An interpreter that has tritonclient: HONE_TRITON_PYTHON, or a new environment."""
    given = os.environ.get("HONE_TRITON_PYTHON")
    if given:
        return given
    directory = Path("build/triton-client").resolve()
    python = directory / "bin/python"
    directory.parent.mkdir(exist_ok=True)
    with directory.with_suffix(".lock").open("w") as one_at_a_time:
        fcntl.flock(one_at_a_time, fcntl.LOCK_EX)
        if not has_client(python):
            subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
            install = [str(python), "-m", "pip", "install", "--quiet", REQUIREMENT, "numpy"]
            if subprocess.run(install, check=False).returncode != 0:
                pytest.skip(f"TRITON'S CLIENT NOT TESTED: {REQUIREMENT} could not be installed")
    return str(python)


def has_client(python: Path) -> bool:
    if not python.exists():
        return False
    command = [str(python), "-c", "import tritonclient.grpc"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_every_call_of_a_stock_triton_client_works(triton_python: str, tmp_path: Path) -> None:
    models.two_inputs(tmp_path / "models/pair/1/model.onnx")
    for name, kind in KINDS.items():
        models.identity(tmp_path / f"models/same_{name}/1/model.onnx", kind)
    flags = ("--model-control", "explicit", "--load-model", "*", "--allow-shared-memory")
    with running(tmp_path / "models", tmp_path / "state", *flags) as server:
        done = subprocess.run(
            [triton_python, str(CALLS), server.public],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("held:") == 10
