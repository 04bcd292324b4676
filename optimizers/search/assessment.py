"""Measures candidates of a search beside the original, on the search's data and never the gate's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from optimizers.contract.evaluation import Figure
from optimizers.contract.goal import FigureName, Goal
from optimizers.contract.host import Host
from optimizers.contract.profile import Task
from optimizers.contract.runtime import SessionSpec


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


class Assessor:
    """Keeps the original open, and its answers, for as long as candidates are measured.

    Not for several threads. Close it, or use it in a `with` statement.
    """

    def __init__(self, terms: Terms) -> None:
        """Open the original and read the search's data.

        Raises:
            InvalidModel: The original cannot be opened.
            InvalidData: The data does not fit it, or cannot be changed as the goal wants.
        """
        raise NotImplementedError

    @property
    def goal(self) -> Goal:
        """The goal with the task's floors, as the gate will have it."""
        raise NotImplementedError

    def original_figures(self) -> tuple[Figure, ...]:
        """The original beside itself: its size, and its answers as a faultless variant's."""
        raise NotImplementedError

    def structure(self, model: Path, session: SessionSpec) -> Assessment:
        """All that training does not change: lint, size and, where the goal names them, the rest.

        That is latency, throughput and cost, timed in turn with the original, and memory.

        Args:
            model: The candidate's model file.
            session: How it is to be opened.

        Raises:
            OutOfMemory: The runtime got too little; nothing follows from that.
        """
        raise NotImplementedError

    def answers(self, model: Path, session: SessionSpec) -> Assessment:
        """Agreement, cosine, sqnr and accuracy, as they are and `under` all that the goal names.

        Args:
            model: The candidate's model file.
            session: How it is to be opened.

        Raises:
            OutOfMemory: The runtime got too little; nothing follows from that.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Close the original."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
