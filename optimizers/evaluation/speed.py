"""The gates that take time and memory: latency, throughput, footprint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from optimizers.calibration import Arrays, item_count, take
from optimizers.contract.evaluation import Figure, Gate
from optimizers.contract.goal import FigureName
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.contract.samples import random_feeds
from optimizers.contract.signature import Signature
from optimizers.contract.width import widen_if_faster
from optimizers.evaluation.findings import Findings
from optimizers.evaluation.footprint import measure_footprint
from optimizers.evaluation.interruptions import interrupted
from optimizers.evaluation.invariance import LARGER_BATCH
from optimizers.evaluation.latency import latency_figures, throughput_figures
from optimizers.evaluation.memory import (
    FEWEST_REPEATS,
    describe_footprints,
    memory_figures,
    repeats_for,
)
from optimizers.evaluation.progress import Report
from optimizers.evaluation.quiet import Quiet
from optimizers.evaluation.series import Terms, Timing, Unstable, wait_until_quiet
from optimizers.evaluation.subject import Subject
from optimizers.evaluation.verdict import is_clear
from optimizers.pausing import working_time

_TOLD_S: Final = 20.0
"""How long figures are waited for that the goal does not ask for."""

_TOLD_WINDOW: Final = 0.25
"""Their windows, as a share of those that decide."""


def judge_speed(
    subject: Subject,
    sessions: tuple[Session, Session],
    max_batch: int,
    items: Arrays | None,
    findings: Findings,
    quiet: Quiet,
    report: Report,
) -> None:
    """Time both models in turn: one row, a batch, and every lane busy.

    Args:
        subject: What is judged.
        sessions: The original and the variant, open.
        max_batch: Most rows joined into one run of the variant as it will be served.
        items: What they are fed where there is enough of it.
        findings: Takes the figures.
        quiet: Judge of disturbances.
        report: Takes progress.

    Raises:
        Broken: A requirement does not hold.
        Unstable: What the goal asks for could not be timed; nothing follows from that.
    """
    signature = sessions[0].signature
    named = set(findings.goal.figures)
    end = working_time() + subject.measure_timeout_s

    def time_both(
        stage: str,
        start: float,
        figures: set[FigureName],
        figures_of: Callable[[Terms], tuple[Figure, ...]],
    ) -> None:
        report(stage, start, "waiting for a quiet machine")
        decides = bool(named & figures)
        terms = Terms(
            alpha=findings.alpha,
            deadline=end if decides else min(end, working_time() + _TOLD_S),
            quiet=quiet,
            timing=subject.timing if decides else _coarse(subject.timing),
            decides=decides,
            is_clear=lambda ratio: is_clear(findings.goal, ratio, figures),
            share=lambda done: report(stage, start + 0.2 * done, ""),
        )
        try:
            wait_until_quiet(terms)
            with interrupted(quiet):
                findings.figures += figures_of(terms)
        except Unstable as error:
            if decides:
                raise
            text = f"{stage} is not known, and the goal does not ask for it: {error}"
            findings.check(Gate.LATENCY, True, text)

    of_one = {FigureName.LATENCY_P50, FigureName.LATENCY_P99}
    time_both(
        "latency",
        0.3,
        of_one,
        lambda terms: latency_of_one(
            sessions, items, subject.host.cpus, terms, for_p99=FigureName.LATENCY_P99 in named
        ),
    )
    if signature.has_batch_dimension:
        feeds = feeds_of(signature, items, LARGER_BATCH)
        time_both(
            "latency in batches",
            0.5,
            set(),
            lambda terms: latency_figures(
                sessions, feeds, terms, batch=LARGER_BATCH, for_p99=False
            ),
        )
    time_both(
        "throughput",
        0.7,
        {FigureName.THROUGHPUT, FigureName.COST},
        lambda terms: throughput_of_lanes(sessions, items, max_batch, subject.price, terms),
    )
    findings.require(Gate.LATENCY)


def latency_of_one(
    sessions: tuple[Session, Session],
    items: Arrays | None,
    cpus: int,
    terms: Terms,
    *,
    for_p99: bool,
) -> tuple[Figure, Figure]:
    """Latency of a caller who is alone: he gets what the server would give him.

    Args:
        sessions: The original and the variant, open.
        items: What they are fed where there is enough of it.
        cpus: Processors that the server hands out.
        terms: How to measure.
        for_p99: Whether there must be a 99th percentile with a bound.

    Raises:
        Unstable: See `series.measure`.
    """
    feeds = feeds_of(sessions[0].signature, items, 1)
    for session in sessions:
        widen_if_faster(session, feeds, cpus)
    return latency_figures(sessions, feeds, terms, batch=1, for_p99=for_p99)


def throughput_of_lanes(
    sessions: tuple[Session, Session],
    items: Arrays | None,
    max_batch: int,
    price: float,
    terms: Terms,
) -> tuple[Figure, Figure]:
    """Throughput and cost with every lane busy, rows joined as they are when served.

    Args:
        sessions: The original and the variant, open.
        items: What they are fed where there is enough of it.
        max_batch: Most rows joined into one run of the variant as it will be served.
        price: Of a processor second, above 0.
        terms: How to measure.

    Raises:
        Unstable: See `series.measure`.
    """
    signature = sessions[0].signature
    rows = (1, 1)
    if signature.has_batch_dimension:
        rows = min(LARGER_BATCH, sessions[0].spec.max_batch), min(LARGER_BATCH, max_batch)
    feeds = feeds_of(signature, items, rows[0]), feeds_of(signature, items, rows[1])
    return throughput_figures(sessions, feeds, rows, price, terms)


def judge_memory(
    subject: Subject,
    signature: Signature,
    served: SessionSpec,
    items: Arrays | None,
    findings: Findings,
    report: Report,
) -> None:
    """Measure what both hold in processes of their own, fed the same rows.

    Raises:
        Broken: A requirement does not hold.
        InvalidModel: It could not be measured.
    """
    decides = FigureName.MEMORY in findings.goal.figures
    repeats = repeats_for(findings.alpha) if decides else FEWEST_REPEATS
    feeds = feeds_of(signature, items, subject.original_session.max_batch)
    pairs = []
    for done in range(repeats):
        report("memory", 0.9 + 0.1 * done / repeats, f"{done} of {repeats} measurements")
        pairs.append(
            (
                measure_footprint(subject.original, subject.original_session, feeds),
                measure_footprint(subject.variant, served, feeds),
            )
        )
    one, other = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    findings.figures.extend(memory_figures(one, other, findings.alpha))
    findings.check(Gate.MEMORY, True, describe_footprints(one, other))
    findings.require(Gate.MEMORY)


def feeds_of(signature: Signature, items: Arrays | None, rows: int) -> Arrays:
    """Inputs of one run: given items where there are enough, else made-up ones."""
    rows = rows if signature.has_batch_dimension else 1
    if items is None or item_count(items) < rows:
        return random_feeds(signature, rows)
    return take(items, slice(0, rows))


def _coarse(timing: Timing) -> Timing:
    return replace(timing, window_s=_TOLD_WINDOW * timing.window_s)
