"""Models whose weights do not fit into one file, by a limit that is lowered here."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from optimizers import saving
from optimizers.artefacts import copy_model
from optimizers.contract.onnx_file import read_onnx_file
from optimizers.contract.profile import Task
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.contract.stage import Stage
from optimizers.contract.steps import Step
from optimizers.structure import editing
from optimizers.techniques import apply_step
from tests.optimizing.test_steps import STEPS
from tests.support import models
from tests.support.contexts import step_context
from tests.support.data import write_data

LIMIT_BYTES = 2048
GRAPH_BYTES = 16 << 10
"""More than the graph of a small net takes, and less than its weights."""

SIZES = (16, 128, 128, 4)
SAVING = [step for step in STEPS if step.stage is not Stage.SESSION]


def answers(model: Path) -> NDArray[np.float32]:
    items = np.random.default_rng(3).standard_normal((32, SIZES[0])).astype(np.float32)
    with closing(Session(model, SessionSpec())) as session:
        found: NDArray[np.float32] = session.run({"x": items})[0]
    return found


@pytest.fixture
def lowered(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(saving, "LARGEST_FILE_BYTES", LIMIT_BYTES)
    monkeypatch.setattr(editing, "_LARGEST_FILE", LIMIT_BYTES)
    return monkeypatch


@pytest.mark.parametrize("step", SAVING, ids=str)
def test_every_step_keeps_large_weights_apart_and_computes_the_same(
    tmp_path: Path, step: Step, lowered: pytest.MonkeyPatch
) -> None:
    model = models.perceptron(tmp_path / "model.onnx", sizes=SIZES)
    write_data(tmp_path, model)
    data = {name: tmp_path / f"{name}.npz" for name in ("calibration", "train")}
    context = step_context(tmp_path, task=Task.CLASSIFICATION, data=data)
    large = tmp_path / "large/model.onnx"
    large.parent.mkdir()
    saving.save(onnx.load(model), large)
    assert read_onnx_file(large).external, "the weights lie in one file"
    (tmp_path / "other").mkdir()
    made = apply_step(large, step, replace(context, work_directory=tmp_path / "other"))
    (tmp_path / "variant").mkdir()
    variant = copy_model(made.model, tmp_path / "variant")
    lowered.undo()
    wanted = apply_step(model, step, context)
    assert made.modified == wanted.modified
    weights = sum(one.stat().st_size for one in read_onnx_file(variant).external)
    if read_onnx_file(wanted.model).size_bytes > GRAPH_BYTES:
        assert weights, "large weights were put into the model's own file"
    np.testing.assert_array_equal(answers(variant), answers(wanted.model))


def test_saving_leaves_the_model_as_it_is(tmp_path: Path, lowered: pytest.MonkeyPatch) -> None:
    model = onnx.load(models.perceptron(tmp_path / "model.onnx", sizes=SIZES))
    before = model.SerializeToString()
    saving.save(model, tmp_path / "apart.onnx")
    assert model.SerializeToString() == before
    assert read_onnx_file(tmp_path / "apart.onnx").external
    np.testing.assert_array_equal(
        answers(tmp_path / "apart.onnx"), answers(tmp_path / "model.onnx")
    )
    lowered.undo()
    saving.save(model, tmp_path / "apart.onnx")
    assert not (tmp_path / "apart.onnx.data").exists(), "stale weights stay behind"
