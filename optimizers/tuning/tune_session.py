"""Tries session arrangements on the model as it is and keeps the best for the goal."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np

from optimizers.contract.goal import FigureName
from optimizers.contract.runtime import Feeds, Session, SessionSpec
from optimizers.contract.samples import random_feeds
from optimizers.contract.steps import TuneSession
from optimizers.evaluation.footprint import measure_footprint
from optimizers.step import StepContext, StepResult

_MOST_CANDIDATES: Final = 16
_ROUNDS: Final = 9
_WINDOW_S: Final = 0.03
_WORTH_IT: Final = 0.97
"""A candidate must beat the present arrangement by this ratio; less is within the noise."""
_THROUGHPUT: Final = frozenset({FigureName.THROUGHPUT, FigureName.COST})


@dataclass(slots=True)
class _Candidate:
    spec: SessionSpec
    costs: list[float] = field(default_factory=list)

    @property
    def cost(self) -> float:
        return float(np.median(self.costs))


def apply(model: Path, step: TuneSession, context: StepContext) -> StepResult:
    """Measure every arrangement in turn, several rounds, lower is better; see `optimizers.step`."""
    aim = context.goal.optimize[0]
    candidates = [_Candidate(spec) for spec in _arrangements(step, context)]
    context.report(0.0, f"{len(candidates)} arrangements")
    with closing(Session(model, context.session)) as session:
        feeds = random_feeds(session.signature, 1, seed=context.seed)
    if aim is FigureName.MEMORY:
        for done, candidate in enumerate(candidates, start=1):
            footprint = measure_footprint(model, candidate.spec, feeds)
            candidate.costs.append(float(footprint.total_bytes))
            context.report(done / len(candidates), str(candidate.spec))
    else:
        window = _throughput_cost if aim in _THROUGHPUT else _latency_cost
        _measure_in_turn(model, candidates, feeds, window, context)
    present, best = candidates[0], min(candidates, key=lambda candidate: candidate.cost)
    unit = "bytes" if aim is FigureName.MEMORY else "s"
    if best.cost > _WORTH_IT * present.cost:
        note = (
            f"none of {len(candidates)} arrangements is clearly better than the present one "
            f"({present.cost:.4g} {unit}; the best took {best.cost:.4g})"
        )
        return StepResult(model=model, session=context.session, modified=False, notes=(note,))
    note = (
        f"{_describe(best.spec)} takes {best.cost:.4g} {unit} against {present.cost:.4g} "
        f"for {_describe(present.spec)}, out of {len(candidates)} arrangements"
    )
    return StepResult(model=model, session=best.spec, modified=True, notes=(note,))


def _arrangements(step: TuneSession, context: StepContext) -> list[SessionSpec]:
    """The present arrangement first, then every allowed combination within the CPU budget."""
    cpus = context.host.cpus
    doubling = [2**power for power in range(cpus.bit_length()) if 2**power <= cpus]
    threads = step.threads or tuple(dict.fromkeys([*doubling, cpus]))
    arenas = step.arena or (False, True)
    levels = step.optimization or ("all", "extended")
    specs = [context.session]
    for count, arena, level in itertools.product(threads, arenas, levels):
        if count > cpus:
            continue
        spec = replace(
            context.session,
            intra_op_threads=count,
            lanes=max(1, cpus // count),
            arena=arena,
            optimization=level,
        )
        if spec not in specs:
            specs.append(spec)
    return specs[:_MOST_CANDIDATES]


def _measure_in_turn(
    model: Path,
    candidates: list[_Candidate],
    feeds: Feeds,
    window: Callable[[Session, Feeds], float],
    context: StepContext,
) -> None:
    sessions = [Session(model, candidate.spec) for candidate in candidates]
    try:
        for session in sessions:
            window(session, feeds)
        for done in range(1, _ROUNDS + 1):
            for candidate, session in zip(candidates, sessions, strict=True):
                candidate.costs.append(window(session, feeds))
            context.report(done / _ROUNDS, f"round {done} of {_ROUNDS}")
    finally:
        for session in sessions:
            session.close()


def _latency_cost(session: Session, feeds: Feeds) -> float:
    """Median seconds of one caller's run."""
    seconds: list[float] = []
    start = time.perf_counter()
    while time.perf_counter() - start < _WINDOW_S:
        begun = time.perf_counter()
        session.run(feeds)
        seconds.append(time.perf_counter() - begun)
    return float(np.median(seconds))


def _throughput_cost(session: Session, feeds: Feeds) -> float:
    """Seconds per run with every lane busy."""
    runs = 0
    start = time.perf_counter()
    while time.perf_counter() - start < _WINDOW_S:
        running = [session.submit(feeds) for _ in range(4 * session.spec.lanes)]
        for run in running:
            run.result()
        runs += len(running)
    return (time.perf_counter() - start) / runs


def _describe(spec: SessionSpec) -> str:
    return (
        f"{spec.lanes} lanes x {spec.intra_op_threads} threads, arena "
        f"{'on' if spec.arena else 'off'}, optimisation {spec.optimization}"
    )
