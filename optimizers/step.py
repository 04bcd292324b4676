"""The seam between a recipe and the techniques: what a step gets and what it gives back.

Every technique is a function `apply(model, step, context) -> StepResult`. It reads the model at
`model`, never writes there, and puts what it makes below `context.work_directory`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from optimizers.contract.goal import Goal
from optimizers.contract.host import Host
from optimizers.contract.profile import Task
from optimizers.contract.runtime import SessionSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class StepContext:
    """What a step may use.

    Attributes:
        work_directory: An empty directory for its files.
        original: The model as delivered, before any step.
        host: The machine that builds and will serve.
        session: How the model is opened so far.
        goal: What the profile is after.
        task: What the model's answers are.
        data: calibration, train, search → an `.npz` file; the gate's data is never here.
        seed: Of everything random.
        report: Takes the share that is done, in [0, 1] and never less than before, and a text.
    """

    work_directory: Path
    original: Path
    host: Host
    session: SessionSpec
    goal: Goal
    task: Task
    data: dict[str, Path]
    seed: int
    report: Callable[[float, str], None]

    def unchanged(self, model: Path, *notes: str) -> StepResult:
        """What a step gives that left the model as it is; `notes` say why."""
        return StepResult(model=model, session=self.session, modified=False, notes=notes)

    def part(self, name: str, start: float, end: float) -> StepContext:
        """The context of a part of the work, from one share to another, in a new directory."""
        directory = self.work_directory / name
        directory.mkdir()
        return replace(
            self,
            work_directory=directory,
            report=lambda share, text: self.report(start + (end - start) * share, text),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What a step made.

    Attributes:
        model: The model that follows steps go on with; the one given when nothing changed.
        session: How it is to be opened.
        modified: Whether anything changed.
        notes: What was done, what was left alone and why; never empty when nothing changed.
    """

    model: Path
    session: SessionSpec
    modified: bool
    notes: tuple[str, ...]
