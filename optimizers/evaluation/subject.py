"""What is judged."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from optimizers.contract.goal import Goal
from optimizers.contract.host import Host
from optimizers.contract.profile import Task
from optimizers.contract.runtime import SessionSpec
from optimizers.evaluation.series import Timing


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A candidate beside its original, and what must hold.

    Attributes:
        original: The original's model file.
        original_session: How the server opens it.
        variant: The candidate's model file.
        session: How the candidate is to be opened.
        goal: What must hold.
        task: How answers are compared.
        gate_data: The gate's `.npz`, or None.
        gate_sha256: Its digest.
        gate_use: How often it will have been used, this time included.
        host: This machine; its `cpus` are what the server hands out.
        seed: Of everything random.
        measure_timeout_s: How long timing may take.
        price: Of a processor second, for `cost`; above 0.
        timing: How finely is timed.
    """

    original: Path
    original_session: SessionSpec
    variant: Path
    session: SessionSpec
    goal: Goal
    task: Task
    gate_data: Path | None
    gate_sha256: str
    gate_use: int
    host: Host
    seed: int
    measure_timeout_s: float
    price: float = 1.0
    timing: Timing = field(default_factory=Timing)
