"""The demo repository: real images, honest splits, the networks it claims."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from optimizers.contract.errors import InvalidData
from optimizers.contract.profile import model_policy
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.demo import data
from optimizers.demo.data import Dataset, SplitSizes, load_splits
from optimizers.demo.networks import TutorialNet
from optimizers.demo.write import DemoReport, DemoSettings, write_demo

SMALL = DemoSettings(
    dataset=Dataset.MNIST_5K, width=64, perceptron_epochs=3, convolutional_epochs=3
)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DemoReport]:
    directory = tmp_path_factory.mktemp("demo") / "models"
    return directory, write_demo(directory, SMALL)


def test_splits_never_overlap_and_are_balanced() -> None:
    splits = load_splits(Dataset.MNIST_5K, SplitSizes(), seed=0).by_name()
    rows = [row.tobytes() for part in splits.values() for row in part.pixels]
    assert len(rows) == len(set(rows)) == 5000
    assert len(splits["gate"]) > 1500
    for part in splits.values():
        shares = np.bincount(part.labels, minlength=10) / len(part)
        assert abs(shares - 0.1).max() < 0.02


def test_pictures_are_digits_and_not_noise() -> None:
    part = load_splits(Dataset.MNIST_5K, SplitSizes(), seed=0).train
    means = np.stack([part.pixels[part.labels == label].mean(axis=0) for label in range(10)])
    nearest = np.linalg.norm(part.pixels[:, None, :] - means[None], axis=2).argmin(axis=1)
    assert (nearest == part.labels).mean() > 0.75


def test_fashion_is_read_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    for part, count in (("train", 300), ("t10k", 100)):
        pixels = random.integers(0, 256, count * 784).astype(np.uint8).tobytes()
        labels = (np.arange(count) % 10).astype(np.uint8).tobytes()
        with gzip.open(tmp_path / f"{part}-images-idx3-ubyte.gz", "wb") as file:
            file.write(bytes(16) + pixels)
        with gzip.open(tmp_path / f"{part}-labels-idx1-ubyte.gz", "wb") as file:
            file.write(bytes(8) + labels)
    monkeypatch.setattr(data, "_FASHION", tmp_path)
    sizes = SplitSizes(calibration=50, train=200, search=50)
    splits = load_splits(Dataset.AUTO, sizes, seed=0)
    assert (splits.source, len(splits.gate)) == ("fashion", 100)


def test_the_convolutional_net_is_the_tutorials_letter_for_letter() -> None:
    shapes = {name: tuple(value.shape) for name, value in TutorialNet().state_dict().items()}
    assert shapes == {
        "conv1.weight": (6, 3, 5, 5),
        "conv1.bias": (6,),
        "conv2.weight": (16, 6, 5, 5),
        "conv2.bias": (16,),
        "fc1.weight": (120, 400),
        "fc1.bias": (120,),
        "fc2.weight": (84, 120),
        "fc2.bias": (84,),
        "fc3.weight": (10, 84),
        "fc3.bias": (10,),
    }


def test_models_learn_and_serve_any_batch(demo: tuple[Path, DemoReport]) -> None:
    directory, report = demo
    assert [model.name for model in report.models] == ["digits_mlp", "digits_lenet"]
    for model in report.models:
        assert model.accuracy > 0.8
        session = Session(directory / model.name / "1/model.onnx", SessionSpec())
        with np.load(directory / model.name / "data/gate.npz") as gate:
            images, labels = gate["image"], gate["labels"]
        assert len(labels) == model.gate_items
        for batch in (1, 2, 7):
            [logits] = session.run({"image": images[:batch]})
            assert logits.shape == (batch, 10)
        [logits] = session.run({"image": images})
        right = float((logits.argmax(axis=1) == labels).mean())
        assert right == pytest.approx(model.accuracy, abs=0.002)
        assert [spec.name for spec in session.signature.outputs] == ["logits"]
        session.close()


def test_the_exported_graph_equals_the_torch_network(tmp_path: Path) -> None:
    from optimizers.demo.networks import export

    torch.manual_seed(0)
    network = TutorialNet().eval()
    images = np.random.default_rng(0).random((5, 3, 32, 32), dtype=np.float32)
    export(network, images, tmp_path / "net.onnx")
    onnx.checker.check_model(str(tmp_path / "net.onnx"))
    session = Session(tmp_path / "net.onnx", SessionSpec())
    with torch.inference_mode():
        wanted = network(torch.from_numpy(images)).numpy()
    assert np.abs(session.run({"image": images})[0] - wanted).max() < 1e-5
    session.close()


def test_profiles_are_ones_the_server_reads(demo: tuple[Path, DemoReport]) -> None:
    directory, report = demo
    for model in report.models:
        text = (directory / model.name / "hone.yaml").read_text()
        policy = model_policy(text, "hone.yaml")
        assert (policy.serve, set(policy.profiles)) == ("fast", {"fast", "tuned", "searched"})
        for path in (policy.data.calibration, policy.data.train, policy.data.gate):
            assert path is not None
            assert (directory / model.name / path).is_file()


def test_the_same_demo_is_written_once(demo: tuple[Path, DemoReport]) -> None:
    directory, _ = demo
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    assert not write_demo(directory, SMALL).written
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*")} == before


def test_foreign_files_and_other_demos_are_never_overwritten(
    demo: tuple[Path, DemoReport], tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InvalidData, match="holds files that the demo did not write"):
        write_demo(tmp_path, SMALL)
    assert (tmp_path / "mine.txt").read_text() == "mine"
    with pytest.raises(InvalidData, match="a demo of other settings"):
        write_demo(demo[0], replace(SMALL, seed=1))
