"""Jobs whose data are image folders: built, judged, and known by what was read."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from optimizers.calibration import Arrays, load_arrays
from optimizers.contract.data_files import data_sha256, require_data
from optimizers.contract.digests import file_sha256
from optimizers.contract.errors import InvalidData
from optimizers.contract.job import JobSpec, read_built, read_result, write_spec
from optimizers.contract.preprocessing import preprocessing_document
from optimizers.contract.profile import Task, profile_document
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.readers.listing import list_images
from optimizers.untouched import Untouched
from tests.support import models
from tests.support.images import folder

PREPROCESS = "{colour: bgr, scale: 0.01, mean: [1.2, 1.3, 1.4], std: [0.7, 0.8, 0.9]}\n"
PROFILE = """\
recipe: [{static_int8: {samples: 32}}]
goal: {optimize: [size], require: ["agreement >= 0.5"]}
"""
CLASSES = 3


def network(path: Path) -> Path:
    """Convolution and matrix product: (items, 3, 8, 8) to 3 scores."""
    random = np.random.default_rng(0)
    kernel = random.standard_normal((64, 3, 3, 3)).astype(np.float32)
    dense = random.standard_normal((64 * 6 * 6, CLASSES)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("MatMul", ["f", "dense"], ["scores"]),
    ]
    return models.save(
        path,
        nodes,
        [("image", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [("scores", TensorProto.FLOAT, ["batch", CLASSES])],
        {"kernel": kernel, "dense": dense},
    )


def job(model: Path, data: dict[str, Path]) -> JobSpec:
    wish = preprocessing_document(PREPROCESS, "wish.yaml")
    return JobSpec(
        id="job",
        model="net",
        version=1,
        profile=profile_document(PROFILE, "wish.yaml", "wish"),
        task=Task.CLASSIFICATION,
        original_file=model,
        original_name="net.onnx",
        original_sha256=file_sha256(model),
        original_session=SessionSpec(),
        data=data,
        data_sha256={name: data_sha256(path, wish) for name, path in data.items()},
        preprocess=wish,
    )


def run_stage(directory: Path) -> None:
    command = [sys.executable, "-m", "optimizers", "worker", str(directory), "--stage", "build"]
    subprocess.run(command, check=False, timeout=170, capture_output=True)


def input_scales(model: Path) -> list[float]:
    """The factors by which `image` is quantised."""
    graph = onnx.load(model).graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    return [
        float(weights[node.input[1]])
        for node in graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] == "image"
    ]


def spread(items: Arrays) -> float:
    """From the smallest to the largest number, 0 among them."""
    return float(max(0, items["image"].max()) - min(0, items["image"].min()))


def build(tmp_path: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    (tmp_path / "wish.yaml").write_text(PROFILE)
    (tmp_path / "preprocess.yaml").write_text(PREPROCESS)
    command = [
        *(sys.executable, "-m", "optimizers", "build", tmp_path / "net.onnx"),
        *("--profile-file", tmp_path / "wish.yaml", "-o", tmp_path / "variant"),
        *("--task", "classification", "--preprocess-file", tmp_path / "preprocess.yaml"),
        *arguments,
    ]
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=170, check=False
    )


def test_steps_and_gates_see_images_as_they_are_declared(tmp_path: Path) -> None:
    model = network(tmp_path / "net.onnx")
    data = {
        name: folder(tmp_path / name, classes=CLASSES, each=10, seed=seed)
        for seed, name in enumerate(("gate", "calibration"))
    }
    directory = tmp_path / "job"
    directory.mkdir()
    write_spec(directory, job(model, data))
    run_stage(directory)
    assert read_built(directory) is not None, read_result(directory)
    with closing(Session(model, SessionSpec())) as session:
        items, labels = load_arrays(directory / "data/gate.images", session.signature)
    first = list_images(data["gate"]).images[0][1]
    with Image.open(first) as image:
        red, green, blue = np.asarray(image, np.float64).transpose(2, 0, 1)
    wanted = [(blue / 100 - 1.2) / 0.7, (green / 100 - 1.3) / 0.8, (red / 100 - 1.4) / 0.9]
    np.testing.assert_allclose(items["image"][0], wanted, atol=1e-5)
    assert labels is not None
    assert f"class{labels[0]}" == first.parent.name
    [scale] = input_scales(directory / "candidate/model.onnx")
    with closing(Session(model, SessionSpec())) as session:
        seen, _ = load_arrays(directory / "data/calibration.images", session.signature)
        plain, _ = load_arrays(data["calibration"], session.signature)
    assert scale == pytest.approx(spread(seen) / 255, rel=0.02)
    assert scale != pytest.approx(spread(plain) / 255, rel=0.02), "as if nothing were declared"


def test_a_job_whose_gate_was_seen_in_building_fails_with_both_files(tmp_path: Path) -> None:
    network(tmp_path / "net.onnx")
    gate = folder(tmp_path / "gate", classes=CLASSES, seed=1)
    calibration = folder(tmp_path / "calibration", classes=CLASSES, seed=2)
    image = (gate / "class1/2.png").read_bytes()
    (calibration / "class0/again.png").write_bytes(image)
    done = build(tmp_path, "--gate", gate, "--calibration", calibration)
    assert done.returncode == 1
    said = "the first in gate/class1/2.png of the gate's and calibration/class0/again.png of"
    assert said in done.stdout


def test_declared_data_must_lie_in_the_models_directory(tmp_path: Path) -> None:
    home, said = tmp_path / "models/net", "net/hone.yaml names data.gate"
    gate = folder(home / "data/gate")
    require_data(gate, home, said)
    with pytest.raises(InvalidData, match=r"data.gate: data/train, which is missing"):
        require_data(home / "data/train", home, said)
    outside = folder(tmp_path / "outside")
    (home / "data/link").symlink_to(outside)
    with pytest.raises(InvalidData, match=r"data.gate: data/link, which links to a place outside"):
        require_data(home / "data/link", home, said)
    (tmp_path / "linked").symlink_to(home)
    require_data(tmp_path / "linked/data/gate", tmp_path / "linked", said)


def test_an_image_that_changes_while_a_build_reads_it_is_noticed(tmp_path: Path) -> None:
    home = folder(tmp_path / "train")
    spec = job(network(tmp_path / "net.onnx"), {"train": home})
    untouched = Untouched(spec)
    (home / "class0/.thumbnails").mkdir()
    untouched.check()
    image = home / "class1/3.png"
    content = image.read_bytes()
    image.unlink()
    image.write_bytes(content)
    with pytest.raises(InvalidData, match=r"3.png was changed while it was used"):
        untouched.check()
    untouched = Untouched(spec)
    (home / "class1/more.png").write_bytes(content)
    with pytest.raises(InvalidData, match=r"more.png was changed while it was used"):
        untouched.check()
    (home / "class1/more.png").unlink()
    untouched.check()
    os.utime(image, ns=(0, 0))
    with pytest.raises(InvalidData, match=r"3.png was changed while it was used"):
        untouched.check()
