"""Measures candidates beside the original on the search's data, and never on the gate's."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from optimizers.contract.errors import InvalidModel, NotSupported, RunFailed
from optimizers.contract.evaluation import Figure, Gate
from optimizers.contract.goal import FigureName, Goal
from optimizers.contract.host import Host
from optimizers.contract.processors import everywhere
from optimizers.contract.profile import Task
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.evaluation.findings import Broken, Findings
from optimizers.evaluation.floors import output_kinds, with_floors
from optimizers.evaluation.lint import lint
from optimizers.evaluation.quiet import Quiet, ReadUsage, read_usage
from optimizers.evaluation.size import size_figure
from optimizers.evaluation.speed import feeds_of
from optimizers.search.objectives import BEST_ANSWERS, STRUCTURAL, named_by, search_alpha
from optimizers.search.questioning import Questions
from optimizers.search.timing import Stopwatch
from optimizers.search.weighing import Scales


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


_NEEDS_A_SESSION: Final = STRUCTURAL - {FigureName.SIZE}


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
        self._original = Session(terms.original, terms.original_session)
        asked = (*terms.goal.require, *terms.goal.stop_when)
        try:
            self._questions = None
            if terms.data is not None:
                self._questions = Questions(
                    terms.data, self._original, terms.task, asked, terms.seed
                )
        except BaseException:
            self._original.close()
            raise
        signature, questions = self._original.signature, self._questions
        kinds = output_kinds(signature, None if questions is None else questions.first)
        self._goal = with_floors(terms.goal, terms.task, kinds)
        self._named = named_by(self._goal)
        self._alpha = search_alpha(self._goal)
        self._items = None if questions is None else questions.items
        self._stopwatch = Stopwatch(
            goal=self._goal,
            cpus=terms.host.cpus,
            price=terms.price,
            seconds=terms.timing_s,
            quiet=Quiet(terms.host.cpus, read),
        )
        feeds = feeds_of(signature, self._items, terms.original_session.max_batch)
        self._scales = Scales(terms.original, terms.original_session, feeds, self._alpha)

    @property
    def goal(self) -> Goal:
        """The goal with the task's floors, as the gate will have it."""
        return self._goal

    def original_figures(self) -> tuple[Figure, ...]:
        """The original beside itself: its size, and its answers as a faultless variant's.

        Raises:
            InvalidData: The labels do not fit the model, or perturbed numbers their type.
        """
        size = size_figure(self._terms.original, self._terms.original)
        if self._questions is None:
            return (size,)
        return (size, *self._questions.of_original(self._alpha))

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
            if self._named.isdisjoint(_NEEDS_A_SESSION):
                return
            with closing(Session(model, session)) as variant:
                served = replace(session, max_batch=1)  # as at the gate, where nobody can tell
                if self._questions is not None:
                    served = self._questions.arrangement(variant, findings)
                with everywhere():
                    self._stopwatch.measure(
                        (self._original, variant), self._items, served.max_batch, findings
                    )
            if FigureName.MEMORY in self._named:
                findings.figures += self._scales.weigh(model, served)

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

        def measure(findings: Findings) -> None:
            if self._questions is None:
                findings.missing |= dict.fromkeys(BEST_ANSWERS, "data.search is not declared")
                return
            with closing(Session(model, session)) as variant:
                self._questions.ask(variant, findings)

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
        findings = Findings(goal=self._goal, alpha=self._alpha)
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
