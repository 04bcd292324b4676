"""Writes the demo repository: two trained models with data, profiles and comments."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import nn

from optimizers.contract.errors import InvalidData
from optimizers.demo.data import Dataset, Images, Splits, SplitSizes, load_splits
from optimizers.demo.networks import (
    TutorialNet,
    WidePerceptron,
    accuracy,
    export,
    flat_input,
    padded_input,
    train,
)

MARKER: Final = ".hone-demo.json"

_FORMAT: Final = 2
_POLICY: Final = """\
# {about}
task: classification          # answers are compared by their highest logit

# Splits of {source} that never overlap. The gate is used for verdicts only.
data:
  calibration: data/calibration.npz
  train: data/train.npz
  search: data/search.npz
  gate: data/gate.npz

# Built, proved on this machine and swapped in unasked; without this line the original serves.
serve: fast

profiles:
  fast:
    recipe:
      - {step}
    goal:
      optimize: [latency_p50]   # must be better than the original's, or nothing is promoted
      require:
        - "accuracy <= 1 point worse"
        - "agreement >= 0.97"
      confidence: 0.95          # for all requirements together

  # No weights change: threads, lanes, memory arena and optimisation level are chosen by measuring.
  tuned:
    recipe:
      - tune_session: {{}}
    goal:
      optimize: [throughput]

  # The recipe is looked for: hone optimize {model} --profile searched --wait
  searched:
    goal:
      optimize: [latency_p50]
      require: ["agreement >= 0.95"]
      stop_when: ["latency_p50 >= 60 % better"]   # good enough
    search: {{sampler: tpe, trials: 12, minutes: 6}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSettings:
    """How large the demo is; the defaults are what `hone demo` writes.

    Attributes:
        dataset: Where the images come from.
        seed: Decides splits and training.
        sizes: Items per split.
        width: Units in each hidden layer of the perceptron.
        perceptron_epochs: Passes over the training items.
        convolutional_epochs: The same of the convolutional net.
    """

    dataset: Dataset = Dataset.AUTO
    seed: int = 0
    sizes: SplitSizes = field(default_factory=SplitSizes)
    width: int = 2048
    perceptron_epochs: int = 8
    convolutional_epochs: int = 20

    def digest(self) -> str:
        """Changes with every setting."""
        text = json.dumps([_FORMAT, dataclasses.asdict(self)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoModel:
    """One model of the demo.

    Attributes:
        name: Its folder.
        accuracy: Share of right answers on the gate split.
        gate_items: How many items that split has.
    """

    name: str
    accuracy: float
    gate_items: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoReport:
    """What was written.

    Attributes:
        written: False when the same demo lay there already.
        source: The data set.
        models: Empty when nothing was written.
        seconds: How long it took.
    """

    written: bool
    source: str
    models: tuple[DemoModel, ...]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    name: str
    about: str
    step: str
    build: Callable[[], nn.Module]
    inputs: Callable[[Images], NDArray[np.float32]]
    epochs: int


def write_demo(
    directory: Path, settings: DemoSettings, tell: Callable[[str], None] = lambda text: None
) -> DemoReport:
    """Write a model repository with two models trained on real images.

    Args:
        directory: New, empty, or with this very demo, which then stays.
        settings: How large.
        tell: Gets a line for each thing done.

    Raises:
        InvalidData: The directory holds other files, or the images are missing.
    """
    started = time.monotonic()
    digest = settings.digest()
    if _holds_demo(directory, digest):
        return DemoReport(written=False, source=settings.dataset, models=(), seconds=0.0)
    splits = load_splits(settings.dataset, settings.sizes, settings.seed)
    tell(f"{splits.source}: {', '.join(f'{k} {len(v)}' for k, v in splits.by_name().items())}")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".hone-demo-") as name:
        fresh = Path(name) / "models"
        models = tuple(
            _write_model(fresh, plan, splits, settings, tell) for plan in _plans(settings)
        )
        (fresh / MARKER).write_text(json.dumps({"settings": digest}), encoding="utf-8")
        if directory.exists():
            directory.rmdir()
        fresh.chmod(0o755)
        os.rename(fresh, directory)
    return DemoReport(
        written=True,
        source=splits.source,
        models=models,
        seconds=time.monotonic() - started,
    )


def _plans(settings: DemoSettings) -> tuple[_Plan, ...]:
    return (
        _Plan(
            name="digits_mlp",
            about=f"A perceptron {settings.width} units wide: reading its weights takes the time.",
            step="dynamic_int8: {per_channel: true}",
            build=lambda: WidePerceptron(settings.width),
            inputs=flat_input,
            epochs=settings.perceptron_epochs,
        ),
        _Plan(
            name="digits_lenet",
            about="A small convolutional net: whether int8 helps it depends on the processor.",
            step="static_int8: {}",
            build=TutorialNet,
            inputs=padded_input,
            epochs=settings.convolutional_epochs,
        ),
    )


def _write_model(
    repository: Path,
    plan: _Plan,
    splits: Splits,
    settings: DemoSettings,
    tell: Callable[[str], None],
) -> DemoModel:
    model = repository / plan.name
    (model / "1").mkdir(parents=True)
    (model / "data").mkdir()
    inputs = {name: plan.inputs(part) for name, part in splits.by_name().items()}
    for name, part in splits.by_name().items():
        np.savez_compressed(model / "data" / f"{name}.npz", image=inputs[name], labels=part.labels)
    network = train(
        plan.build,
        inputs["train"],
        splits.train.labels,
        epochs=plan.epochs,
        seed=settings.seed,
    )
    right = accuracy(network, inputs["gate"], splits.gate.labels)
    export(network, inputs["train"], model / "1" / "model.onnx")
    policy = _POLICY.format(about=plan.about, source=splits.source, step=plan.step, model=plan.name)
    (model / "hone.yaml").write_text(policy, encoding="utf-8")
    tell(f"{plan.name}: accuracy {right:.2%} on the gate's {len(splits.gate)} items")
    return DemoModel(name=plan.name, accuracy=right, gate_items=len(splits.gate))


def _holds_demo(directory: Path, digest: str) -> bool:
    """Whether the demo of these settings lies there already.

    Raises:
        InvalidData: Something else lies there; it is never overwritten.
    """
    if not directory.exists():
        return False
    if not directory.is_dir():
        raise InvalidData(f"{directory} is a file; name a new directory for the demo")
    try:
        marker = json.loads((directory / MARKER).read_text(encoding="utf-8"))
        found = str(marker["settings"])
    except FileNotFoundError:
        if not any(directory.iterdir()):
            return False
        raise InvalidData(
            f"{directory} holds files that the demo did not write; name a new directory"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidData(f"{directory / MARKER} is damaged; remove {directory}") from error
    if found != digest:
        raise InvalidData(
            f"{directory} holds a demo of other settings; remove it or name a new directory"
        )
    return True
