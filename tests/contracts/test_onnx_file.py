"""What a model file says of itself is read without trusting it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from optimizers.contract.digests import file_sha256
from optimizers.contract.errors import InvalidModel
from optimizers.contract.onnx_file import read_onnx_file
from tests.support import models


def external(path: Path, location: str) -> Path:
    models.linear(path)
    model = onnx.load(str(path))
    onnx.save_model(
        model,
        str(path),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=location,
        size_threshold=0,
    )
    return path


def test_a_model_in_one_file_is_that_file(tmp_path: Path) -> None:
    file = read_onnx_file(models.linear(tmp_path / "model.onnx"))
    assert (file.opset, file.external) == (models.OPSET, ())
    assert file.sha256() == file_sha256(tmp_path / "model.onnx")
    assert file.size_bytes == (tmp_path / "model.onnx").stat().st_size


def test_external_weights_belong_to_the_model(tmp_path: Path) -> None:
    path = external(tmp_path / "model.onnx", "weights.bin")
    file = read_onnx_file(path)
    assert [one.name for one in file.external] == ["weights.bin"]
    before = file.sha256()
    content = bytearray((tmp_path / "weights.bin").read_bytes())
    content[0] ^= 1
    (tmp_path / "weights.bin").write_bytes(content)
    assert read_onnx_file(path).sha256() != before


def test_a_link_that_leaves_the_directory_is_refused(tmp_path: Path) -> None:
    path = external(tmp_path / "models/model.onnx", "weights.bin")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "models/weights.bin").unlink()
    (tmp_path / "models/weights.bin").symlink_to(tmp_path / "secret")
    with pytest.raises(InvalidModel, match="outside its own directory"):
        read_onnx_file(path)


def test_weights_in_a_subgraph_are_found(tmp_path: Path) -> None:
    path = models.slow(tmp_path / "model.onnx", width=4)
    model = onnx.load(str(path))
    body = model.graph.node[0].attribute[0].g
    tensor = body.initializer.add(name="hidden", data_type=1, dims=[1])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../stolen")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InvalidModel, match="outside its own directory"):
        read_onnx_file(path)


@given(content=some.binary(max_size=300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_read_or_refused_and_nothing_else(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.onnx"
    path.write_bytes(content)
    with contextlib.suppress(InvalidModel):
        read_onnx_file(path)


@given(cut=some.integers(1, 200), data=some.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_a_damaged_model_is_read_or_refused_and_nothing_else(
    tmp_path: Path, cut: int, data: some.DataObject
) -> None:
    path = models.linear(tmp_path / "model.onnx")
    content = bytearray(path.read_bytes())
    position = data.draw(some.integers(0, len(content) - 1))
    content[position] ^= cut
    path.write_bytes(content)
    with contextlib.suppress(InvalidModel):
        read_onnx_file(path)


@pytest.mark.parametrize("location", ["a\0b", "x" * 5000, "circle"])
def test_a_location_that_can_name_no_file_is_told(tmp_path: Path, location: str) -> None:
    path = models.linear(tmp_path / "model.onnx")
    (tmp_path / "circle").symlink_to("circle")
    model = onnx.load(str(path))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InvalidModel, match="cannot name a file; expected a relative path") as error:
        read_onnx_file(path)
    assert "\0" not in str(error.value)
    assert len(str(error.value)) < 300
