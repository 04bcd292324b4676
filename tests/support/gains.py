"""Rows of the page of gains that nobody measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from benchmarks.gains.records import Circumstances, Done, Gained, Quantity, Record
from optimizers.contract.profile import Task

HERE = Circumstances(
    when="2026-01-02",
    machine="a machine, with VNNI",
    has_vnni=True,
    versions={"onnxruntime": "1.2", "numpy": "3.4"},
    about="A model",
)
THERE = replace(HERE, machine="another machine, without VNNI", has_vnni=False)


def record(
    title: str,
    figures: Mapping[Quantity, Gained] | None = None,
    *,
    ending: str = "succeeded",
    circumstances: Circumstances = HERE,
    task: Task = Task.CLASSIFICATION,
) -> Record:
    """One of a recipe that is called as its title is."""
    return Record(
        title=title,
        recipe=f"[{title}]",
        optimize="latency_p50",
        task=task,
        ending=ending,
        circumstances=circumstances,
        figures=dict(figures or {}),
        steps=(Done(step="merge", notes=("one", "two")),),
    )
