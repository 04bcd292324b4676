"""A real search over a perceptron that reads digits: its job, in a directory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from optimizers.contract.digests import file_sha256
from optimizers.contract.distillation import Finetune
from optimizers.contract.goal import FigureName, Goal, parse_requirement
from optimizers.contract.host import cpu_budget
from optimizers.contract.job import JobSpec
from optimizers.contract.profile import Profile, Task
from optimizers.contract.runtime import SessionSpec
from optimizers.contract.search import Sampler, Search
from optimizers.contract.training import Training
from optimizers.demo.data import Dataset, SplitSizes, load_splits
from optimizers.demo.networks import flat_input
from optimizers.techniques import apply_step
from tests.support.contexts import step_context
from tests.support.digits import untrained

GOAL = Goal(
    optimize=(FigureName.SIZE,),
    require=(parse_requirement("agreement >= 0.9"),),
    stop_when=(parse_requirement("size >= 60 % better"),),
)
SEARCH = Search(
    sampler=Sampler.RANDOM,
    trials=6,
    minutes=5.0,
    steps=("simplify", "dynamic_int8", "weights_nbits", "low_rank"),
    planner=False,
)


def write_digits(directory: Path) -> dict[str, Path]:
    """Digits for every purpose, no item in two of them."""
    splits = load_splits(Dataset.MNIST_5K, SplitSizes(train=1500, search=1000), seed=0)
    data = {}
    for name, images in (
        ("calibration", splits.calibration),
        ("train", splits.train),
        ("search", splits.search),
        ("gate", splits.gate),
    ):
        data[name] = directory / f"{name}.npz"
        np.savez(data[name], x=flat_input(images), labels=images.labels)
    return data


def trained(directory: Path, train: Path, width: int = 64) -> Path:
    """A perceptron that reads digits; `model.onnx` in a directory."""
    start = untrained(directory / "start.onnx", width=width)
    context = step_context(directory, task=Task.CLASSIFICATION, data={"train": train})
    strategy = Training(epochs=4, batch_size=32, learning_rate=3e-3)
    result = apply_step(start, Finetune(training=strategy), context)
    model = directory / "model.onnx"
    model.write_bytes(result.model.read_bytes())
    return model


def search_spec(
    directory: Path, *, goal: Goal = GOAL, search: Search = SEARCH, name: str = "edge"
) -> JobSpec:
    """The job of a search over a trained perceptron whose files lie in a directory."""
    data = write_digits(directory)
    model = trained(directory, data["train"])
    return JobSpec(
        id="job",
        model="digits",
        version=1,
        profile=Profile(name=name, goal=goal, search=search),
        task=Task.CLASSIFICATION,
        original_file=model,
        original_name="model.onnx",
        original_sha256=file_sha256(model),
        original_session=SessionSpec(),
        data=data,
        data_sha256={purpose: file_sha256(path) for purpose, path in data.items()},
        cpus=max(1, int(cpu_budget())),
    )


def with_search(spec: JobSpec, search: Search) -> JobSpec:
    """The same job with another search."""
    return replace(spec, profile=replace(spec.profile, search=search))
