"""Measures candidates beside the original on the search's data, and never on the gate's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from optimizers.calibration import take
from optimizers.contract.errors import InvalidModel, NotSupported, RunFailed
from optimizers.contract.evaluation import Figure, Gate
from optimizers.contract.goal import FigureName, Goal
from optimizers.contract.host import Host
from optimizers.contract.processors import everywhere
from optimizers.contract.profile import Task
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.evaluation import series
from optimizers.evaluation.answers import Answers, Arrangement, JudgedItems, ask, read_items
from optimizers.evaluation.comparison import answer_figures, check_numbers
from optimizers.evaluation.fidelity import Outputs, answer
from optimizers.evaluation.findings import Broken, Findings
from optimizers.evaluation.floors import output_kinds, with_floors
from optimizers.evaluation.footprint import Footprint, measure_footprint
from optimizers.evaluation.lint import lint
from optimizers.evaluation.memory import memory_figures, repeats_for
from optimizers.evaluation.progress import untold
from optimizers.evaluation.quiet import Quiet, ReadUsage, read_usage
from optimizers.evaluation.robustness import (
    ask_under,
    check_robustness,
    figures_under,
    perturbations,
)
from optimizers.evaluation.series import Unstable, wait_until_quiet
from optimizers.evaluation.size import size_figure
from optimizers.evaluation.speed import feeds_of, latency_of_one, throughput_of_lanes
from optimizers.search.objectives import BEST_ANSWERS, search_alpha
from optimizers.search.timing import settles, short_terms


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What candidates are measured beside, and how.

    Attributes:
        original: The original's model file.
        original_session: How the server opens it.
        goal: What is wanted, without floors.
        task: How answers are compared.
        data: `data.search`: a file, or what names an image folder; None: answers are not judged.
        host: This machine; its `cpus` are what the server hands out.
        price: Of a processor second, for `cost`; above 0.
        seed: Of everything random.
        timing_s: Most seconds that one question of time (latency, throughput) may take for one
            candidate.
    """

    original: Path
    original_session: SessionSpec
    goal: Goal
    task: Task
    data: Path | None
    host: Host
    price: float = 1.0
    seed: int = 0
    timing_s: float = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """What was found of a candidate.

    Attributes:
        figures: What was measured.
        broken: Why it cannot be used; "" where it can. Then there may be figures all the same.
        missing: Figures that were wanted and not had, and why: they have no bound, or others used
            the machine whenever it was looked at. Assessing again may bring the latter.
        seconds: How long it took.
    """

    figures: tuple[Figure, ...]
    broken: str = ""
    missing: Mapping[FigureName, str] = field(default_factory=dict)
    seconds: float = 0.0


_OF_ONE: Final = (FigureName.LATENCY_P50, FigureName.LATENCY_P99)
_OF_LANES: Final = (FigureName.THROUGHPUT, FigureName.COST)
_ARRANGED_BY: Final = 32
"""Items that show whether rows may share a run, where only times are wanted."""


class Assessor:
    """Keeps the original open, and its answers, for as long as candidates are measured.

    Not for several threads. Close it, or use it in a `with` statement.
    """

    def __init__(self, terms: Terms, read: ReadUsage = read_usage) -> None:
        """Open the original and read the search's data.

        Args:
            terms: What candidates are measured beside, and how.
            read: How busy the machine is.

        Raises:
            InvalidModel: The original cannot be opened.
            InvalidData: The data does not fit it, or cannot be changed as the goal wants.
        """
        self._terms = terms
        self._quiet = Quiet(terms.host.cpus, read)
        self._original = Session(terms.original, terms.original_session)
        self._weighed: list[Footprint] = []
        self._wanted: Outputs | None = None
        try:
            data = terms.data
            self._items = None if data is None else read_items(data, self._original)
            self._wishes = perturbations((*terms.goal.require, *terms.goal.stop_when))
            if self._items is not None:
                check_robustness(self._wishes, self._original.signature, self._items.items)
        except BaseException:
            self._original.close()
            raise
        first = None if self._items is None else self._items.first
        kinds = output_kinds(self._original.signature, first)
        self._goal = with_floors(terms.goal, terms.task, kinds)
        asked = (*self._goal.require, *self._goal.stop_when)
        self._named = {*self._goal.optimize, *(one.figure for one in asked)}

    @property
    def goal(self) -> Goal:
        """The goal with the task's floors, as the gate will have it."""
        return self._goal

    def original_figures(self) -> tuple[Figure, ...]:
        """The original beside itself: its size, and its answers as a faultless variant's.

        Raises:
            InvalidData: The labels do not fit the model, or perturbed numbers their type.
        """
        terms, judged = self._terms, self._items
        figures = [size_figure(terms.original, terms.original)]
        if judged is None:
            return tuple(figures)
        alpha, wanted = search_alpha(self._goal), self._answers_of_original(judged)
        clean = Answers(
            signature=self._original.signature,
            original=wanted,
            variant=(wanted,),
            arrangement=Arrangement(session=terms.original_session, batch_difference={}),
        )
        figures += answer_figures(terms.task, judged, clean, alpha)
        for wish in self._wishes:
            sessions = self._original, self._original
            found = ask_under(wish, sessions, judged.items, terms.seed, clean)
            same = replace(found, variant=(found.original,))
            figures += figures_under(wish, terms.task, judged, same, alpha)
        return tuple(figures)

    def structure(self, model: Path, session: SessionSpec) -> Assessment:
        """All that training does not change: lint, size and, where the goal names them, the rest.

        That is latency, throughput and cost, timed in turn with the original, and memory.

        Args:
            model: The candidate's model file.
            session: How it is to be opened.

        Raises:
            OutOfMemory: The runtime got too little; nothing follows from that.
        """
        original = self._terms.original

        def measure(findings: Findings) -> None:
            for passed, text in lint(original, self._original.signature, model, session):
                findings.check(Gate.LINT, passed, text)
            findings.figures.append(size_figure(original, model))
            if self._named.isdisjoint((*_OF_ONE, *_OF_LANES, FigureName.MEMORY)):
                return
            with closing(Session(model, session)) as variant:
                served = self._arrangement(variant, findings)
                with everywhere():
                    self._time(variant, served, findings)
            if FigureName.MEMORY in self._named:
                findings.figures += self._weigh(model, served)

        return self._assess(measure)

    def answers(self, model: Path, session: SessionSpec) -> Assessment:
        """Agreement, cosine, sqnr and accuracy, as they are and `under` all that the goal names.

        Args:
            model: The candidate's model file.
            session: How it is to be opened.

        Raises:
            InvalidData: The labels do not fit the model, or perturbed numbers their type.
            OutOfMemory: The runtime got too little; nothing follows from that.
        """
        terms, judged = self._terms, self._items

        def measure(findings: Findings) -> None:
            if judged is None:
                findings.missing |= dict.fromkeys(BEST_ANSWERS, "data.search is not declared")
                return
            wanted = self._answers_of_original(judged)
            with closing(Session(model, session)) as variant:
                sessions = self._original, variant
                clean = ask(sessions, judged.items, terms.seed, findings, untold, wanted)
                check_numbers(clean, findings)
                findings.figures += answer_figures(terms.task, judged, clean, findings.alpha)
                for wish in self._wishes:
                    found = ask_under(wish, sessions, judged.items, terms.seed, clean)
                    check_numbers(found, findings, Gate.ROBUSTNESS, f" under {wish.text}")
                    findings.figures += figures_under(
                        wish, terms.task, judged, found, findings.alpha
                    )

        return self._assess(measure)

    def close(self) -> None:
        """Close the original."""
        self._original.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _assess(self, measure: Callable[[Findings], None]) -> Assessment:
        start = time.monotonic()
        findings = Findings(goal=self._goal, alpha=search_alpha(self._goal))
        broken = ""
        try:
            measure(findings)
        except Broken:
            broken = findings.checks[-1].text
        except (InvalidModel, NotSupported, RunFailed) as error:
            broken = f"it could not be run: {error}"
        return Assessment(
            figures=tuple(findings.figures),
            broken=broken,
            missing={name: why for name, why in findings.missing.items() if name in self._named},
            seconds=time.monotonic() - start,
        )

    def _answers_of_original(self, judged: JudgedItems) -> Outputs:
        if self._wanted is None:
            self._wanted = answer(self._original, judged.items)
        return self._wanted

    def _arrangement(self, variant: Session, findings: Findings) -> SessionSpec:
        """How a candidate would be served: as at the gate, unbatched if nobody can tell."""
        if self._items is None:
            return replace(variant.spec, max_batch=1)
        few = take(self._items.items, slice(0, _ARRANGED_BY))
        sessions = self._original, variant
        return ask(sessions, few, self._terms.seed, findings, untold).arrangement.session

    def _time(self, variant: Session, served: SessionSpec, findings: Findings) -> None:
        terms, sessions = self._terms, (self._original, variant)
        items = None if self._items is None else self._items.items

        def time_both(
            names: tuple[FigureName, ...], figures_of: Callable[[series.Terms], Iterable[Figure]]
        ) -> None:
            if self._named.isdisjoint(names):
                return
            is_settled = settles(self._goal, names[0], names)
            short = short_terms(findings.alpha, terms.timing_s, self._quiet, is_settled)
            try:
                wait_until_quiet(short)
                found = figures_of(short)
            except Unstable as error:
                findings.missing |= dict.fromkeys(names, str(error))
                return
            for figure in found:
                findings.figures.append(figure)
                if figure.ratio is None or None in (figure.ratio.lower, figure.ratio.upper):
                    findings.missing[figure.name] = f"{figure.counted} are too few for a bound"

        time_both(
            _OF_ONE,
            lambda short: latency_of_one(
                sessions,
                items,
                terms.host.cpus,
                short,
                for_p99=FigureName.LATENCY_P99 in self._named,
            ),
        )
        time_both(
            _OF_LANES,
            lambda short: throughput_of_lanes(
                sessions, items, served.max_batch, terms.price, short
            ),
        )

    def _weigh(self, model: Path, served: SessionSpec) -> Iterable[Figure]:
        """Memory beside the original's, which is weighed once for all candidates."""
        terms, alpha = self._terms, search_alpha(self._goal)
        items = None if self._items is None else self._items.items
        feeds = feeds_of(self._original.signature, items, terms.original_session.max_batch)
        repeats = repeats_for(alpha)
        if not self._weighed:
            self._weighed = [
                measure_footprint(terms.original, terms.original_session, feeds)
                for _ in range(repeats)
            ]
        found = [measure_footprint(model, served, feeds) for _ in range(repeats)]
        return memory_figures(self._weighed, found, alpha)
