"""Opens the model in one arrangement, whatever comes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from optimizers.contract.tuning import SetSession
from optimizers.step import StepContext, StepResult
from optimizers.tuning.arrangement import describe


def apply(model: Path, step: SetSession, context: StepContext) -> StepResult:
    """Change how the model is opened; see `optimizers.step`."""
    cpus = context.host.cpus
    threads = min(step.threads, cpus)
    room = max(1, cpus // threads)
    spec = replace(
        context.session,
        intra_op_threads=threads,
        lanes=min(step.lanes or room, room),
        arena=step.arena,
        optimization=step.optimization,
    )
    notes = []
    if threads < step.threads or spec.lanes < step.lanes:
        notes.append(f"no more threads and lanes than the {cpus} processors have room for")
    if spec == context.session:
        return context.unchanged(model, f"it is opened so already: {describe(spec)}", *notes)
    first = f"{describe(spec)}, before {describe(context.session)}"
    return StepResult(model=model, session=spec, modified=True, notes=(first, *notes))
