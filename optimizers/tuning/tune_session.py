"""Tries session arrangements on the model as it is and keeps the best for the goal."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np

from optimizers.contract.amounts import quantity
from optimizers.contract.goal import FigureName
from optimizers.contract.processors import everywhere
from optimizers.contract.runtime import Feeds, Session, SessionSpec
from optimizers.contract.samples import random_feeds
from optimizers.contract.tuning import TuneSession
from optimizers.evaluation.footprint import measure_footprint
from optimizers.evaluation.interruptions import interrupted
from optimizers.evaluation.quiet import Quiet, ReadUsage, read_usage
from optimizers.step import StepContext, StepResult
from optimizers.tuning.arrangement import describe

_MOST_TRIED: Final = 15
_MOST_OPEN: Final = 4
"""Sessions in memory at once, the present arrangement's included."""

_ROUNDS: Final = 9
_ATTEMPTS: Final = 3
"""How often a disturbed round is measured before it counts as it is."""

_WINDOW_S: Final = 0.03
_ROWS: Final = 8
_WORTH_IT: Final = 0.97
"""A candidate must beat the present arrangement by this ratio; less is within the noise."""

_THROUGHPUT: Final = frozenset({FigureName.THROUGHPUT, FigureName.COST})

_Window = Callable[[Session, Feeds], float]
"""Measures for a moment; lower is better."""


@dataclass(slots=True, kw_only=True)
class _Trial:
    """One arrangement and its costs beside the present one's, round by round."""

    spec: SessionSpec
    costs: list[float] = field(default_factory=list)
    present: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Below 1 it is better than the present arrangement."""
        return float(np.median(np.divide(self.costs, self.present)))


def apply(
    model: Path, step: TuneSession, context: StepContext, read: ReadUsage = read_usage
) -> StepResult:
    """Measure arrangements in turn with the present one, several rounds; see `optimizers.step`."""
    possible = _arrangements(step, context)
    trials = [_Trial(spec=spec) for spec in possible[:_MOST_TRIED]]
    notes = []
    if len(trials) < len(possible):
        notes.append(f"tried {len(trials)} of {len(possible)} arrangements, the extremes first")
    if any(count > context.host.cpus for count in step.threads):
        notes.append(f"no more threads than the {context.host.cpus} processors were tried")
    aim = context.goal.optimize[0]
    if aim is FigureName.MEMORY:
        _weigh(model, trials, context)
    else:
        with everywhere():
            disturbed = _time(model, trials, aim, context, read)
        if disturbed:
            notes.append(
                f"others used the machine in {disturbed} rounds, at the last of {_ATTEMPTS} "
                "attempts too; these count as they are"
            )
    return _conclude(model, trials, context, notes)


def _conclude(
    model: Path, trials: Sequence[_Trial], context: StepContext, notes: Sequence[str]
) -> StepResult:
    unchanged = StepResult(model=model, session=context.session, modified=False, notes=())
    if not trials:
        return replace(unchanged, notes=("there is no other arrangement to try", *notes))
    best = min(trials, key=lambda trial: trial.ratio)
    unit = "B" if context.goal.optimize[0] is FigureName.MEMORY else "s"
    cost, present = (quantity(unit, float(np.median(one))) for one in (best.costs, best.present))
    if best.ratio > _WORTH_IT:
        note = (
            f"none of {len(trials)} arrangements is clearly better than the present one "
            f"({present}; the best took {cost})"
        )
        return replace(unchanged, notes=(note, *notes))
    note = (
        f"{describe(best.spec)} takes {cost} against {present} for "
        f"{describe(context.session)}, out of {len(trials)} arrangements"
    )
    return StepResult(model=model, session=best.spec, modified=True, notes=(note, *notes))


def _arrangements(step: TuneSession, context: StepContext) -> list[SessionSpec]:
    """Every allowed combination but the present one; one thread and all processors come first."""
    cpus = context.host.cpus
    doubling = {2**power for power in range(cpus.bit_length())} | {cpus}
    threads = [count for count in step.threads or doubling if count <= cpus]
    threads = sorted(set(threads), key=lambda count: (count not in (1, cpus), count))
    combinations = itertools.product(
        threads, step.arena or (False, True), step.optimization or ("all", "extended")
    )
    specs = [
        replace(
            context.session,
            intra_op_threads=count,
            lanes=max(1, cpus // count),
            arena=arena,
            optimization=level,
        )
        for count, arena, level in combinations
    ]
    return [spec for spec in dict.fromkeys(specs) if spec != context.session]


def _weigh(model: Path, trials: Sequence[_Trial], context: StepContext) -> None:
    """Bytes held by each arrangement in a process of its own, after runs of the largest batch."""
    feeds = _feeds(model, context, context.session.max_batch)
    context.report(0.0, f"{len(trials)} arrangements")
    present = measure_footprint(model, context.session, feeds).total_bytes
    for done, trial in enumerate(trials, start=1):
        trial.costs.append(float(measure_footprint(model, trial.spec, feeds).total_bytes))
        trial.present.append(float(present))
        context.report(done / len(trials), describe(trial.spec))


def _time(
    model: Path,
    trials: Sequence[_Trial],
    aim: FigureName,
    context: StepContext,
    read: ReadUsage,
) -> int:
    """Seconds of each arrangement; how many rounds were disturbed whatever was done."""
    joined = aim in _THROUGHPUT
    window = _throughput_cost if joined else _latency_cost
    feeds = _feeds(model, context, min(_ROWS, context.session.max_batch) if joined else 1)
    rows = len(next(iter(feeds.values())))
    context.report(0.0, f"{len(trials)} arrangements, runs of {rows} rows")
    quiet = Quiet(context.host.cpus, read)
    groups = list(_groups(trials, _MOST_OPEN - 1))
    disturbed = 0
    for place, group in enumerate(groups):
        with ExitStack() as stack:
            specs = [context.session, *(trial.spec for trial in group)]
            sessions = [stack.enter_context(closing(Session(model, spec))) for spec in specs]
            stack.enter_context(interrupted(quiet))
            for session in sessions:
                window(session, feeds)
            for done in range(1, _ROUNDS + 1):
                (present, *costs), was_quiet = _round(sessions, feeds, window, quiet)
                disturbed += not was_quiet
                for trial, cost in zip(group, costs, strict=True):
                    trial.costs.append(cost)
                    trial.present.append(present)
                share = (place + done / _ROUNDS) / len(groups)
                context.report(share, f"arrangements {place + 1} of {len(groups)}, round {done}")
    return disturbed


def _groups(trials: Sequence[_Trial], size: int) -> Iterator[Sequence[_Trial]]:
    for start in range(0, len(trials), size):
        yield trials[start : start + size]


def _round(
    sessions: Sequence[Session], feeds: Feeds, window: _Window, quiet: Quiet
) -> tuple[list[float], bool]:
    """One cost of each session, and whether nobody else used the machine meanwhile."""
    for _ in range(_ATTEMPTS):
        quiet.start()
        costs = [window(session, feeds) for session in sessions]
        if quiet.was_quiet():
            return costs, True
    return costs, False


def _feeds(model: Path, context: StepContext, rows: int) -> Feeds:
    with closing(Session(model, context.session)) as session:
        rows = rows if session.signature.has_batch_dimension else 1
        return random_feeds(session.signature, rows, seed=context.seed)


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
