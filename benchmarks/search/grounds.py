"""What is swept and searched: a model with its data, a goal, and a declared grid of recipes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.gains.subjects import subject
from optimizers.contract.data_files import data_sha256
from optimizers.contract.declaration import Choice, Real, Value
from optimizers.contract.digests import file_sha256
from optimizers.contract.goal import FigureName, Goal, Requirement, parse_requirement
from optimizers.contract.host import cpu_budget
from optimizers.contract.job import JobSpec
from optimizers.contract.preprocessing import Preprocessing
from optimizers.contract.profile import Profile, Task
from optimizers.contract.runtime import SessionSpec
from optimizers.contract.search import Search
from optimizers.search.ranges import points

_PROFILE: Final = "sweep"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """One model's part of the benchmark.

    Attributes:
        model: Name of a subject of `benchmarks.gains`.
        task: What its answers are.
        goal: Its first aim is what a search for one aim looks for; all of it where there are two.
        search: Its steps and values are the grid.
        items: Kind of data → the first so many items that are used; none of the gate's, since
            nothing goes to a gate here.
    """

    model: str
    task: Task
    goal: Goal
    search: Search
    items: Mapping[str, int]


def _settled(**values: Value) -> dict[str, Choice | Real]:
    """One value for each parameter, so that nothing is asked of it; `__` stands for a point."""
    return {name.replace("__", "."): Choice((value,)) for name, value in values.items()}


def _requiring(text: str) -> tuple[Requirement, ...]:
    """One requirement, and nothing of the noise in single numbers, which training changes."""
    return parse_requirement(text), parse_requirement("sqnr >= -100 dB")


_ANYTHING: Final = {
    Task.CLASSIFICATION: "accuracy <= 100 points worse",
    Task.EMBEDDING: "cosine >= -1",
}
_AIMS: Final = (FigureName.LATENCY_P50, FigureName.SIZE)

GROUNDS: Final[dict[str, Ground]] = {
    "caffe_lenet": Ground(
        model="caffe_lenet",
        task=Task.CLASSIFICATION,
        goal=Goal(optimize=_AIMS, require=_requiring("accuracy <= 3 points worse")),
        search=Search(
            steps=("prune_channels", "distill", "static_int8", "weights_nbits"),
            values={
                **_settled(
                    prune_channels__round_to=4,
                    distill__temperature=4.0,
                    distill__weight=0.5,
                    distill__training__batch_size=128,
                    distill__training__optimizer="adamw",
                    distill__training__schedule="one_cycle",
                    distill__training__epochs=9,
                    static_int8__calibration="minmax",
                    static_int8__skip_first=False,
                    static_int8__equalize=False,
                    static_int8__correct_bias=True,
                    weights_nbits__bits=8,
                    weights_nbits__block_size=32,
                    weights_nbits__embeddings=False,
                ),
                "prune_channels.ratio": Choice((0.25, 0.5, 0.625, 0.75)),
                "distill.training.learning_rate": Choice((0.003, 0.01)),
                "prune_channels.importance": Choice(("l2", "l1")),
            },
        ),
        items={"calibration": 256, "train": 6000, "search": 3000},
    ),
    "minilm": Ground(
        model="minilm",
        task=Task.EMBEDDING,
        goal=Goal(optimize=_AIMS, require=_requiring("cosine >= 0.9")),
        search=Search(
            steps=("merge", "dynamic_int8", "drop_layers", "weights_nbits"),
            values={
                **_settled(weights_nbits__block_size=32),
                "drop_layers.count": Choice((1, 2, 3)),
                "dynamic_int8.per_channel": Choice((True, False)),
                "dynamic_int8.embeddings": Choice((False, True)),
                "weights_nbits.bits": Choice((8, 4)),
                "weights_nbits.embeddings": Choice((False, True)),
            },
        ),
        items={"calibration": 128, "train": 128, "search": 500},
    ),
}
"""A convolutional network whose recipes train, and an encoder of matrix products whose do not."""


def quick(ground: Ground) -> Ground:
    """A smoke run: the first two steps, one value of each parameter, few items.

    That makes three recipes. Their aim is size, for which nothing is timed, and answers may be
    anything.
    """
    steps = ground.search.steps[:2]
    values = {
        name: _first(one)
        for name, one in ground.search.values.items()
        if name.partition(".")[0] in steps
    }
    return replace(
        ground,
        goal=Goal(optimize=(FigureName.SIZE,), require=_requiring(_ANYTHING[ground.task])),
        search=replace(ground.search, steps=steps, values=values),
        items={
            kind: count // (4 if kind == "search" else 10) for kind, count in ground.items.items()
        },
    )


def job_of(ground: Ground, work: Path, tell: Callable[[str], None]) -> tuple[str, JobSpec]:
    """What the model is, for people, and what an evaluator or a live search is given.

    Args:
        ground: The part.
        work: Where models and data lie, and are written when they are not there yet.
        tell: Is told what is done, for people.

    Raises:
        InvalidData: What the model needs is not installed.
    """
    model = subject(ground.model, work, tell)
    data = {
        kind: _beginning(model.data[kind], count, work / ground.model / "search")
        for kind, count in ground.items.items()
    }
    spec = JobSpec(
        id=_PROFILE,
        model=ground.model,
        version=1,
        profile=Profile(name=_PROFILE, goal=ground.goal, search=ground.search),
        task=ground.task,
        original_file=model.model,
        original_name=model.model.name,
        original_sha256=file_sha256(model.model),
        original_session=SessionSpec(),
        data=data,
        data_sha256={kind: data_sha256(path, Preprocessing()) for kind, path in data.items()},
        cpus=max(1, int(cpu_budget())),
    )
    return model.about, spec


def _beginning(file: Path, count: int, home: Path) -> Path:
    """A file with the first items of another one, whose items are mixed."""
    target = home / f"{file.stem}-{count}.npz"
    if not target.exists():
        home.mkdir(exist_ok=True)
        unfinished = home / f"{target.stem}.part.npz"
        with np.load(file) as arrays:
            np.savez_compressed(unfinished, **{name: arrays[name][:count] for name in arrays.files})
        unfinished.rename(target)
    return target


def _first(one: Choice | Real) -> Choice:
    return Choice(points(one)[:1])
