"""Groups and perturbed items on the whole way: data file, processes of a job, sealed manifest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from optimizers.contract.directory import read_variant
from optimizers.contract.evaluation import Verdict
from optimizers.contract.goal import FigureName
from tests.support import models
from tests.support.data import MOMENT, write_data

PROFILE = """\
recipe: [{dynamic_int8: {}}]
goal:
  optimize: [size]
  require: ["agreement >= 0.8", "agreement under noise 0.05 >= 0.8", "sqnr >= 10 dB"]
"""


def grouped(path: Path, groups: np.ndarray) -> None:
    with np.load(path) as stored:
        arrays = dict(stored)
    np.savez(path, allow_pickle=False, **arrays, groups=groups)


def build(folder: Path, output: str) -> subprocess.CompletedProcess[str]:
    command = [
        *(sys.executable, "-m", "optimizers", "build", str(folder / "net.onnx")),
        *("--profile-file", str(folder / "small.yaml"), "-o", str(folder / output)),
        *("--task", "classification", "--gate", str(folder / "gate.npz")),
        *("--calibration", str(folder / "calibration.npz"), "--train", str(folder / "train.npy")),
        *MOMENT,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_a_job_judges_by_group_and_under_noise(tmp_path: Path) -> None:
    model = models.perceptron(tmp_path / "net.onnx", sizes=(16, 256, 256, 4))
    write_data(tmp_path, model)
    (tmp_path / "small.yaml").write_text(PROFILE)
    grouped(tmp_path / "gate.npz", np.arange(400) // 2)
    grouped(tmp_path / "calibration.npz", np.arange(1000, 1064))
    with np.load(tmp_path / "train.npz") as stored:
        np.save(tmp_path / "train.npy", stored["x"])
    done = build(tmp_path, "variant")
    assert done.returncode == 0, done.stdout + done.stderr
    evaluation = read_variant(tmp_path / "variant").manifest.evaluation
    assert evaluation is not None
    assert evaluation.verdict is Verdict.PROVED
    found = [figure for figure in evaluation.figures if figure.name is FigureName.AGREEMENT]
    assert [figure.under for figure in found] == ["", "noise 0.05"]
    assert {figure.counted for figure in found} == {"200 clusters of 400 items"}
    texts = [check.text for check in evaluation.checks]
    assert any(
        text.startswith("'agreement under noise 0.05 >= 0.8'") and "200 clusters" in text
        for text in texts
    )
    assert any(
        "data.train; whether a group is cannot be seen, as train.npy" in one for one in texts
    )

    grouped_again = np.arange(1000, 1064)
    grouped_again[7] = 12
    with np.load(tmp_path / "calibration.npz") as stored:
        arrays = {name: array for name, array in stored.items() if name != "groups"}
    np.savez(tmp_path / "calibration.npz", allow_pickle=False, **arrays, groups=grouped_again)
    done = build(tmp_path, "another")
    assert done.returncode != 0
    assert "1 of the 200 groups of data.gate (gate.npz) are in data.calibration" in done.stdout
