"""What the profiler finds of real files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from optimizers.contract.evidence import Evidence
from optimizers.contract.host import this_host
from optimizers.contract.profile import Task
from optimizers.contract.runtime import SessionSpec
from optimizers.evaluation.profiler import profile

SPEC = SessionSpec(max_batch=8)


def look(model: Path, spec: SessionSpec = SPEC, data: Mapping[str, Path] | None = None) -> Evidence:
    """Evidence of a classifier on two processors."""
    host, task = this_host(2), Task.CLASSIFICATION
    return profile(model, spec, host=host, task=task, data=data or {}, seed=0)


def told_of_data(evidence: Evidence) -> Evidence:
    """With data for what most steps need, as far as the planner is told."""
    return replace(evidence, data={"calibration": 100, "train": 1000, "search": 500})
