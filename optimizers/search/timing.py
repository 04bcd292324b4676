"""How candidates are timed: shortly, in turn with the original, until enough is known.

As at the gate units of four windows alternate, those in which others used the machine are void,
and bounds are order statistics at looks fixed beforehand. Here windows are shorter, looks fewer,
and an interval that is still wide when time is up stays so instead of being refused: it decides
nothing that it does not prove.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from optimizers.calibration import Arrays
from optimizers.contract.evaluation import Estimate, Figure
from optimizers.contract.goal import FIGURES, FigureName, Goal, Relation
from optimizers.contract.runtime import Feeds, Session
from optimizers.evaluation.findings import Findings
from optimizers.evaluation.interruptions import interrupted
from optimizers.evaluation.invariance import LARGER_BATCH
from optimizers.evaluation.latency import RUNS_FOR_P99
from optimizers.evaluation.limits import compare, compare_with_original
from optimizers.evaluation.quiet import Quiet
from optimizers.evaluation.series import Terms, Timing, Unstable, wait_until_quiet
from optimizers.evaluation.speed import feeds_of, latency_of_one, throughput_of_lanes
from optimizers.pausing import working_time
from optimizers.search.objectives import named_by

LOOKS: Final = (10, 20, 40)
"""Units; 40 of them take some 3 s beside the time of waiting for a quiet machine."""

TIMING: Final = Timing(window_s=0.02, precise=0.05, unstable=float("inf"), same_runs=False)

_ROOM: Final = 1.5
_LONGER: Final = 8.0
_OF_ONE: Final = (FigureName.LATENCY_P50, FigureName.LATENCY_P99)
_OF_LANES: Final = (FigureName.THROUGHPUT, FigureName.COST)
_RELATIVE: Final = (Relation.RELATIVE_GAIN, Relation.RELATIVE_LOSS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopwatch:
    """Times candidates for one goal.

    Attributes:
        goal: With the task's floors; only what it names is timed.
        cpus: Processors that the server hands out.
        price: Of a processor second, above 0.
        seconds: Most time that one question may take, waiting for a quiet machine included; up to
            eight times as much where runs are so long that it would end without a bound.
        quiet: Judge of disturbances.
    """

    goal: Goal
    cpus: int
    price: float
    seconds: float
    quiet: Quiet

    def measure(
        self,
        sessions: tuple[Session, Session],
        items: Arrays | None,
        max_batch: int,
        findings: Findings,
    ) -> None:
        """Latency, then throughput and cost, as far as the goal names them.

        Args:
            sessions: The original and the candidate, open.
            items: What they are fed where there is enough of it.
            max_batch: Most rows joined into one run of the candidate as it would be served.
            findings: Takes the figures, and why one is missing or has no bound.
        """
        named = named_by(self.goal)

        def latency(terms: Terms) -> Iterable[Figure]:
            for_p99 = FigureName.LATENCY_P99 in named
            return latency_of_one(sessions, items, self.cpus, terms, for_p99=for_p99)

        def throughput(terms: Terms) -> Iterable[Figure]:
            return throughput_of_lanes(sessions, items, max_batch, self.price, terms)

        runs_of_one = RUNS_FOR_P99 // 2 if FigureName.LATENCY_P99 in named else 1
        runs_of_lanes = 2 * min(LARGER_BATCH, max_batch)
        for names, figures_of, runs in (
            (_OF_ONE, latency, runs_of_one),
            (_OF_LANES, throughput, runs_of_lanes),
        ):
            if not named.isdisjoint(names):
                seconds = self._seconds_for(sessions, items, runs, findings.alpha)
                self._ask(names, figures_of, seconds, findings)

    def _seconds_for(
        self, sessions: tuple[Session, Session], items: Arrays | None, runs: int, alpha: float
    ) -> float:
        """How long to measure where each window holds so many runs of one row at least.

        All of n values lie on one side of the median with probability 1/2^n, so that fewer than
        log2(1 / alpha) units have no bound.
        """
        feeds = feeds_of(sessions[0].signature, items, 1)
        windows = [max(TIMING.window_s, runs * _run_s(session, feeds)) for session in sessions]
        units = math.ceil(-math.log2(alpha / (len(LOOKS) + 1)))
        needed = _ROOM * units * 2 * sum(windows)
        return min(max(self.seconds, needed), _LONGER * self.seconds)

    def _ask(
        self,
        names: tuple[FigureName, ...],
        figures_of: Callable[[Terms], Iterable[Figure]],
        seconds: float,
        findings: Findings,
    ) -> None:
        terms = Terms(
            alpha=findings.alpha,
            deadline=working_time() + seconds,
            quiet=self.quiet,
            timing=TIMING,
            is_clear=settles(self.goal, names[0], names),
            looks=LOOKS,
            keeps_unfinished=True,
        )
        try:
            wait_until_quiet(terms)
            with interrupted(self.quiet):
                found = tuple(figures_of(terms))
        except Unstable as error:
            findings.missing |= dict.fromkeys(names, str(error))
            return
        findings.figures += found
        for figure in found:
            if figure.ratio is None or None in (figure.ratio.lower, figure.ratio.upper):
                findings.missing[figure.name] = f"{figure.counted} are too few for a bound"


def _run_s(session: Session, feeds: Feeds) -> float:
    """Seconds of a run, after one to warm up."""
    session.run(feeds)
    start = time.perf_counter()
    session.run(feeds)
    return time.perf_counter() - start


def settles(
    goal: Goal, name: FigureName, together: Sequence[FigureName]
) -> Callable[[Estimate], bool]:
    """When bounds of one figure's ratio leave nothing to be known of it.

    They do when a requirement, or being better at the first aim, is missed even by the bound that
    speaks for the variant: then the trial has lost. Where the goal asks nothing but relative
    requirements of all figures that are measured together, they also do when each of these is
    held or missed. Where one of them is an aim only precision will do.

    Args:
        goal: What is wanted.
        name: The figure whose ratio is known.
        together: All figures that the same measurement gives.
    """
    asked = [*goal.require, *goal.stop_when]
    of_name = [one for one in asked if one.figure is name and one.relation in _RELATIVE]
    all_relative = len(of_name) == sum(one.figure in together for one in asked)
    is_aim = any(one in together for one in goal.optimize)
    needed = [one for one in of_name if one in goal.require]

    def settled(ratio: Estimate) -> bool:
        figure = Figure(name=name, unit=FIGURES[name].unit, samples=1, value=ratio, ratio=ratio)
        lost = [compare(one, figure) for one in needed]
        if goal.optimize[0] is name:
            lost.append(compare_with_original(figure))
        if any(one.is_lost for one in lost):
            return True
        compared = [compare(one, figure) for one in of_name]
        return all_relative and not is_aim and all(one.holds or one.is_lost for one in compared)

    return settled
