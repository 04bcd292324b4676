"""Jobs whose data are image folders: built, judged, and known by what was read."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from optimizers.calibration import load_arrays
from optimizers.contract.data_files import (
    ImageFolder,
    data_sha256,
    require_data,
    write_image_folder,
)
from optimizers.contract.directory import read_variant
from optimizers.contract.errors import InvalidData
from optimizers.contract.evaluation import FigureName
from optimizers.contract.preprocessing import preprocessing_document
from optimizers.contract.runtime import Session, SessionSpec
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
    inputs = [("image", TensorProto.FLOAT, ["batch", 3, 8, 8])]
    outputs = [("scores", TensorProto.FLOAT, ["batch", CLASSES])]
    return models.save(path, nodes, inputs, outputs, {"kernel": kernel, "dense": dense})


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


def test_a_variant_is_calibrated_and_judged_on_images_as_they_are_declared(tmp_path: Path) -> None:
    model = network(tmp_path / "net.onnx")
    gate = folder(tmp_path / "gate", classes=CLASSES, each=20, seed=1)
    calibration = folder(tmp_path / "calibration", classes=CLASSES, each=10, seed=2)
    done = build(tmp_path, "--gate", gate, "--calibration", calibration)
    assert (tmp_path / "variant").is_dir(), done.stdout + done.stderr
    evaluation = read_variant(tmp_path / "variant").manifest.evaluation
    assert evaluation is not None
    wish = preprocessing_document(PREPROCESS, "wish")
    assert evaluation.certificate.gate_sha256 == data_sha256(gate, wish)
    described = write_image_folder(tmp_path, "gate", ImageFolder(path=gate, preprocess=wish))
    with closing(Session(model, SessionSpec())) as session:
        items, labels = load_arrays(described, session.signature)
        plain, _ = load_arrays(gate, session.signature)
        right = session.run(items)[0].argmax(axis=1) == labels
        other = session.run(plain)[0].argmax(axis=1) == labels
    assert labels is not None
    [accuracy] = [one for one in evaluation.figures if one.name is FigureName.ACCURACY]
    assert accuracy.original is not None
    assert accuracy.original.value == pytest.approx(right.mean())
    assert accuracy.samples == len(labels) == CLASSES * 20
    assert right.mean() != other.mean(), "without preprocessing the figure would be another"


@pytest.mark.parametrize("fault", ["shared", "class"])
def test_a_job_with_wrong_folders_fails_with_the_reason(tmp_path: Path, fault: str) -> None:
    network(tmp_path / "net.onnx")
    gate = folder(tmp_path / "gate", classes=CLASSES, seed=1)
    calibration = folder(tmp_path / "calibration", classes=CLASSES, seed=2)
    if fault == "shared":
        image = (gate / "class1/2.png").read_bytes()
        (calibration / "class0/again.png").write_bytes(image)
        said = "the first in gate/class1/2.png of the gate's and calibration/class0/again.png of"
    else:
        folder(tmp_path / "gate", classes=CLASSES + 1, seed=1)
        said = "data.gate (gate.images) has 4 folders of classes, and the model has 3 classes"
    done = build(tmp_path, "--gate", gate, "--calibration", calibration)
    assert done.returncode == 1
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
