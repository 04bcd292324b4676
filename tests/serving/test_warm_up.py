"""Samples that a model must answer before it counts as ready."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from optimizers.contract.errors import InvalidModel
from optimizers.contract.runtime import Session, SessionSpec
from server.client import Client
from server.pb import model_config_pb2 as config_pb
from server.pb import open_inference_pb2 as inference
from server.triton_config import model_config
from server.warm_up import warm_up
from tests.support import models
from tests.support.calls import floats, index, refusal
from tests.support.servers import running

ROWS = 4
"""Rows of the table that `gather` looks up: an index beyond them makes the run fail."""


def gather(path: Path) -> Path:
    """y [batch] = table [4] at the indices x [batch]."""
    return models.save(
        path,
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        [("x", TensorProto.INT64, ["batch"])],
        [("y", TensorProto.FLOAT, ["batch"])],
        {"table": np.arange(ROWS, dtype=np.float32)},
    )


def declared(content: str, *, datatype: str = "TYPE_INT64", dims: str = "", rows: int = 2) -> str:
    """A config.pbtxt with one sample for `gather`."""
    return (
        "max_batch_size: 8\n"
        f'model_warmup {{ name: "s" batch_size: {rows} count: 2 inputs {{ key: "x" value '
        f"{{ data_type: {datatype} dims: [ {dims} ] {content} }} }} }}\n"
    )


def run(model: Path, config: str, folder: Path) -> None:
    """Open a model and run the samples of a configuration on it."""
    session = Session(model, SessionSpec())
    try:
        warm_up(session, model_config(config, "m/config.pbtxt").warm_up, folder)
    finally:
        session.close()


@pytest.mark.parametrize("content", ["zero_data: true", "random_data: true"])
def test_made_up_values_are_run(tmp_path: Path, content: str) -> None:
    run(gather(tmp_path / "m/1/model.onnx"), declared(content), tmp_path)


def test_values_come_out_of_the_file(tmp_path: Path) -> None:
    model = gather(tmp_path / "m/1/model.onnx")
    config = declared('input_data_file: "x.bin"')
    np.array([0, ROWS - 1], np.int64).tofile(tmp_path / "x.bin")
    run(model, config, tmp_path)
    np.array([0, ROWS], np.int64).tofile(tmp_path / "x.bin")
    with pytest.raises(InvalidModel, match="sample 's' with inputs x: the model could not be run"):
        run(model, config, tmp_path)


def test_texts_come_out_of_the_file(tmp_path: Path) -> None:
    model = models.identity(tmp_path / "m/1/model.onnx", TensorProto.STRING, ["batch"])
    config = declared('input_data_file: "x.bin"', datatype="TYPE_STRING")
    whole = struct.pack("<I", 0) + struct.pack("<I", 5) + "héé".encode()
    (tmp_path / "x.bin").write_bytes(whole)
    run(model, config, tmp_path)
    run(model, declared("zero_data: true", datatype="TYPE_STRING"), tmp_path)
    run(model, declared("random_data: true", datatype="TYPE_STRING"), tmp_path)
    for content, part in (
        (whole[:-1], "ends inside text 1 of 2"),
        (whole[:5], "ends inside text 1 of 2"),
        (whole + b"\0", "holds 1 bytes after text 1"),
        (whole[:-1] + b"\xff", "text 1 is not UTF-8"),
    ):
        (tmp_path / "x.bin").write_bytes(content)
        with pytest.raises(InvalidModel, match=f"sample 's': input 'x': .*{part}"):
            run(model, config, tmp_path)


@pytest.mark.parametrize(
    ("config", "part"),
    [
        (declared('input_data_file: "no"'), "input 'x': .*/no cannot be read: No such file"),
        (declared('input_data_file: "x.bin"'), "/x.bin has 24 bytes, expected 16 for INT64"),
        (declared("zero_data: true", datatype="TYPE_FP32"), "is INT64 in the model file, FP32 in"),
        (declared("zero_data: true", dims="3"), r"has shape \[-1\] in the model file, \[2, 3\]"),
        (declared("zero_data: true").replace('"x"', '"z"'), "has no input 'z'; it has x"),
        ('max_batch_size: 8\nmodel_warmup { name: "s" batch_size: 1 }', "'s' lacks input 'x'"),
    ],
)
def test_a_sample_that_does_not_fit_is_explained(tmp_path: Path, config: str, part: str) -> None:
    (tmp_path / "x.bin").write_bytes(bytes(24))
    with pytest.raises(InvalidModel, match=part):
        run(gather(tmp_path / "m/1/model.onnx"), config, tmp_path)


async def test_a_model_is_ready_after_its_samples_and_not_when_one_fails(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    config = declared('input_data_file: "x.bin"')
    for name, values in (("good", [0, 3]), ("bad", [0, 4])):
        gather(folder / name / "1/model.onnx")
        (folder / name / "config.pbtxt").write_text(config)
        (folder / name / "warmup").mkdir()
        np.array(values, np.int64).tofile(folder / name / "warmup/x.bin")
    with running(folder, tmp_path / "state") as server:
        states = await index(server.public)
        assert states["good", "1"][0] == "READY"
        state, reason = states["bad", "1"]
        assert (state, "warm-up sample 's' with inputs x" in reason) == ("UNAVAILABLE", True)
        async with Client(server.public) as client:
            answers, _ = await client.infer("good", {"x": np.array([2], np.int64)})
            assert answers["y"].tolist() == [2.0]
            told = await client.call(
                "ModelConfig",
                inference.ModelConfigRequest(name="good"),
                inference.ModelConfigResponse,
            )
        expected = config_pb.ModelWarmup(name="s", batch_size=2, count=2)
        expected.inputs["x"].data_type = config_pb.TYPE_INT64
        expected.inputs["x"].input_data_file = "x.bin"
        assert list(told.config.model_warmup) == [expected]
        np.array([0, 4], np.int64).tofile(folder / "good/warmup/x.bin")
        load = inference.RepositoryModelLoadRequest(model_name="good")
        code, text = await refusal(server.admin, load, "RepositoryModelLoad")
        assert (code, "warm-up sample 's'" in text) == ("FAILED_PRECONDITION", True)
        async with Client(server.public) as client:
            await client.infer("good", {"x": np.array([2], np.int64)})


async def test_what_dynamic_batching_says_is_told_again(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    models.linear(folder / "net/1/model.onnx")
    (folder / "net/config.pbtxt").write_text(
        "max_batch_size: 8\nresponse_cache { enable: true }\n"
        'output { name: "y" data_type: TYPE_FP32 dims: [ 3 ] label_filename: "names.txt" }\n'
        "dynamic_batching { preferred_batch_size: [ 4 ] max_queue_delay_microseconds: 70 "
        "priority_levels: 2 default_priority_level: 2 "
        "default_queue_policy "
        "{ default_timeout_microseconds: 9000000 allow_timeout_override: true } "
        "priority_queue_policy { key: 1 value { timeout_action: DELAY max_queue_size: 7 } } }\n"
    )
    (folder / "net/names.txt").write_text("a\nb\nc\n")
    with running(folder, tmp_path / "state") as server:
        async with Client(server.public) as client:
            await client.infer("net", {"x": floats(1, 4)})
            told = await client.call(
                "ModelConfig",
                inference.ModelConfigRequest(name="net"),
                inference.ModelConfigResponse,
            )
    policy = config_pb.ModelQueuePolicy
    assert told.config.response_cache.enable
    assert told.config.output[0].label_filename == "names.txt"
    assert told.config.dynamic_batching == config_pb.ModelDynamicBatching(
        preferred_batch_size=[4],
        max_queue_delay_microseconds=70,
        priority_levels=2,
        default_priority_level=2,
        default_queue_policy=policy(
            default_timeout_microseconds=9_000_000, allow_timeout_override=True
        ),
        priority_queue_policy={1: policy(timeout_action=policy.DELAY, max_queue_size=7)},
    )
