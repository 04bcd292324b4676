"""Data files for gates and calibration, and the hone.yaml that names them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from optimizers.contract.runtime import Session, SessionSpec

MOMENT = ("--measure-seconds", "1")
"""What no goal requires is timed for a moment; without it, a busy machine is waited for."""

FAST_INT8 = """\
recipe: [{dynamic_int8: {}}]
goal: {optimize: [size], require: ["agreement >= 0.8"]}
"""


def write_data(
    directory: Path,
    model: Path,
    *,
    gate_items: int = 400,
    calibration_items: int = 64,
    train_items: int = 200,
) -> None:
    """Random items labelled by the model itself, so that its accuracy is 1."""
    session = Session(model, SessionSpec())
    [spec] = session.signature.inputs
    directory.mkdir(parents=True, exist_ok=True)
    for seed, (name, items) in enumerate(
        (("gate", gate_items), ("calibration", calibration_items), ("train", train_items))
    ):
        random = np.random.default_rng(seed)
        values = random.standard_normal((items, *spec.shape[1:])).astype(np.float32)
        labels = session.run({spec.name: values})[0].argmax(axis=1)
        np.savez(directory / f"{name}.npz", **{spec.name: values, "labels": labels})
    session.close()


def policy(profiles: str, *, serve: str = "", hold: bool = False) -> str:
    """A hone.yaml around some profiles, each indented by two spaces."""
    return "\n".join(
        [
            "task: classification",
            "data: {calibration: data/calibration.npz, gate: data/gate.npz}",
            *([f"serve: {serve}"] if serve else []),
            *(["hold_version: until_proven"] if hold else []),
            "profiles:",
            profiles,
        ]
    )
