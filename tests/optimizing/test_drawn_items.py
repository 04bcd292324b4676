"""Steps that look at some calibration items look at some of all: files may be sorted."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from optimizers.contract.quantization import StaticInt8
from optimizers.quantization.moments import Moments
from tests.support import models
from tests.support.quantized import (
    answer,
    calibrated,
    decibels,
    pictures,
    quantised,
    separable,
)


def test_ranges_are_those_of_all_items_though_the_first_are_dark(tmp_path: Path) -> None:
    model = separable(tmp_path / "model.onnx")
    context = calibrated(tmp_path)
    bright = pictures(64)
    dark = 0.01 * pictures(64)
    np.savez(tmp_path / "calibration.npz", x=np.concatenate([dark, bright]))

    made = quantised(model, StaticInt8(samples=32), context).model

    assert decibels(answer(model, bright), answer(made, bright)) > 15


def test_moments_are_those_of_all_items_though_the_first_are_empty(tmp_path: Path) -> None:
    model = models.perceptron(tmp_path / "model.onnx", sizes=(4, 3))
    x = np.zeros((40, 4), np.float32)
    x[8:] = 1
    np.savez(tmp_path / "calibration.npz", x=x)

    found = Moments(model, tmp_path / "calibration.npz", 8, seed=0).of("x")

    assert found.shape == (4, 4)
    assert found.min() > 0.4
