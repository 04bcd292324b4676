"""What a step gets in tests."""

from __future__ import annotations

from pathlib import Path

from optimizers.contract.goal import Goal
from optimizers.contract.host import this_host
from optimizers.contract.profile import Task
from optimizers.contract.runtime import SessionSpec
from optimizers.step import StepContext


def step_context(
    directory: Path,
    *,
    task: Task = Task.OTHER,
    data: dict[str, Path] | None = None,
    original: str = "model.onnx",
) -> StepContext:
    """A context whose files go below `directory`; without data, if none are given."""
    work = directory / "work"
    work.mkdir(exist_ok=True)
    return StepContext(
        work_directory=work,
        original=directory / original,
        host=this_host(2),
        session=SessionSpec(),
        goal=Goal(),
        task=task,
        data=data or {},
        seed=0,
        report=lambda share, text: None,
    )
