"""`python -m optimizers build`: a variant without a server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from optimizers.contract.directory import read_variant
from optimizers.contract.evaluation import Verdict
from optimizers.contract.study import REPORT_FILE, read_explanation
from tests.support import models
from tests.support.data import FAST_INT8, MOMENT, write_data


def build(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "optimizers", "build", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_proved_variant_is_written_with_its_manifest(tmp_path: Path) -> None:
    model = models.perceptron(tmp_path / "net.onnx", sizes=(16, 256, 256, 4))
    write_data(tmp_path / "data", model)
    profile = tmp_path / "small.yaml"
    profile.write_text(FAST_INT8)
    done = build(
        *(model, "--profile-file", profile, "-o", tmp_path / "out/variant"),
        *("--task", "classification", "--gate", tmp_path / "data/gate.npz"),
        *("--gate-use", 3, *MOMENT),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("succeeded\n")
    variant = read_variant(tmp_path / "out/variant")
    assert variant.manifest.evaluation is not None
    assert variant.manifest.evaluation.verdict is Verdict.PROVED
    assert variant.manifest.evaluation.certificate.gate_use == 3
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["variant"]


@pytest.mark.alone
def test_what_a_search_found_is_kept_beside_its_variant(tmp_path: Path) -> None:
    model = models.perceptron(tmp_path / "net.onnx", sizes=(16, 256, 256, 4))
    write_data(tmp_path / "data", model)
    profile = tmp_path / "edge.yaml"
    profile.write_text(
        "search: {sampler: grid, trials: 2, minutes: 4, steps: [dynamic_int8], planner: false}\n"
        "goal: {optimize: [size], require: ['agreement >= 0.8', 'sqnr >= 10 dB']}\n"
    )
    done = build(
        *(model, "--profile-file", profile, "-o", tmp_path / "out/variant"),
        *("--task", "classification", "--gate", tmp_path / "data/gate.npz"),
        *("--search", tmp_path / "data/train.npz"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = tmp_path / "out/variant.search"
    assert f"what was found lies in {found}" in done.stdout
    explanation = read_explanation(found)
    assert explanation is not None
    assert explanation.winner is not None
    assert "of 2 trials" in done.stdout
    assert "</html>" in (found / REPORT_FILE).read_text()
    assert list(found.glob("*.sqlite")), "started again, it goes on"
    assert read_variant(tmp_path / "out/variant").manifest.recipe.steps


def test_what_cannot_be_improved_says_so_with_its_own_exit_code(tmp_path: Path) -> None:
    model = models.two_inputs(tmp_path / "net.onnx")
    profile = tmp_path / "small.yaml"
    profile.write_text(FAST_INT8)
    done = build(model, "--profile-file", profile, "-o", tmp_path / "variant")
    assert done.returncode == 3
    assert "the recipe changes nothing: the model has no matrix product" in done.stdout


def test_the_gates_data_must_be_its_own(tmp_path: Path) -> None:
    model = models.perceptron(tmp_path / "net.onnx", sizes=(16, 32, 32, 4))
    write_data(tmp_path / "data", model)
    profile = tmp_path / "small.yaml"
    profile.write_text(FAST_INT8)
    gate = tmp_path / "data/gate.npz"
    done = build(
        *(model, "--profile-file", profile, "-o", tmp_path / "variant"),
        *("--gate", gate, "--calibration", gate),
    )
    assert done.returncode == 1
    said = "failed: data.gate (gate.npz) and data.calibration (gate.npz) share all of their items"
    assert said in done.stdout


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    model = tmp_path / "net.onnx"
    model.write_bytes(b"not a model")
    profile = tmp_path / "small.yaml"
    profile.write_text(FAST_INT8)
    done = build(model, "--profile-file", profile, "-o", tmp_path / "variant")
    assert (done.returncode, done.stderr) == (
        1,
        "hone: net.onnx is not an ONNX model, or is cut short\n",
    )
    profile.write_text("recipe: [dynamic]\n")
    done = build(model, "--profile-file", profile, "-o", tmp_path / "variant")
    assert done.returncode == 1
    assert done.stderr.startswith("hone: small.yaml:1: recipe.0.dynamic: unknown key")
    assert build(model, "--profile-fil", profile).returncode == 2
