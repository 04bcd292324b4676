"""The gates in their order, cheapest first; the first that breaks ends the measuring."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np

from optimizers.calibration import Arrays, batches, item_count, load_arrays, take
from optimizers.contract.errors import RunFailed
from optimizers.contract.evaluation import (
    Certificate,
    Check,
    Estimate,
    Evaluation,
    Figure,
    Gate,
)
from optimizers.contract.goal import FigureName, Goal
from optimizers.contract.host import Host
from optimizers.contract.onnx_file import read_onnx_file
from optimizers.contract.profile import Task
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.contract.samples import random_feeds
from optimizers.evaluation.bounds import gate_alpha, per_figure_alpha
from optimizers.evaluation.fidelity import (
    Outputs,
    agreement_figure,
    answer,
    class_output,
    first_bad_number,
    same_class,
    similarity_figures,
)
from optimizers.evaluation.footprint import (
    REPEATS,
    describe_footprints,
    measure_footprint,
    memory_figure,
)
from optimizers.evaluation.invariance import (
    LARGEST_RELATIVE_DIFFERENCE,
    Invariance,
    measure_invariance,
)
from optimizers.evaluation.latency import latency_figures, throughput_figures
from optimizers.evaluation.lint import lint
from optimizers.evaluation.quiet import Quiet
from optimizers.evaluation.task import accuracy_figure, check_labels, right_answers
from optimizers.evaluation.verdict import check_better, check_requirement, conclude, with_floors

LARGER_BATCH: Final = 8

_GATES: Final = {
    FigureName.SIZE: Gate.LINT,
    FigureName.AGREEMENT: Gate.FIDELITY,
    FigureName.COSINE: Gate.FIDELITY,
    FigureName.SQNR: Gate.FIDELITY,
    FigureName.ACCURACY: Gate.ACCURACY,
    FigureName.LATENCY_P50: Gate.LATENCY,
    FigureName.LATENCY_P99: Gate.LATENCY,
    FigureName.THROUGHPUT: Gate.LATENCY,
    FigureName.COST: Gate.LATENCY,
    FigureName.MEMORY: Gate.MEMORY,
}
Report = Callable[[str, float, str], None]
"""Takes the stage, the share of the evaluation that is done, and a text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is judged.

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
        host: This machine.
        seed: Of everything random.
        measure_timeout_s: How long timing may take.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The evaluation and what it settled besides.

    Attributes:
        evaluation: Verdict and figures.
        session: How the variant is to be opened; unbatched if its answers depend on neighbours.
        batch_difference: Output name → largest difference between alone and batched.
    """

    evaluation: Evaluation
    session: SessionSpec
    batch_difference: dict[str, float]


class _Broken(Exception):
    """A check did not hold; nothing more is measured."""


@dataclass(slots=True)
class _Findings:
    """What has been found so far; a check that breaks ends the work."""

    goal: Goal
    checks: list[Check] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)

    def check(self, check: Check) -> None:
        self.checks.append(check)
        if check.passed is False:
            raise _Broken

    def figure(self, name: FigureName) -> Figure | None:
        return next((figure for figure in self.figures if figure.name is name), None)

    def require(self, gate: Gate) -> None:
        """Judge every requirement of one gate, then whether the first aim was reached there."""
        wanted = [one for one in self.goal.require if _GATES[one.figure] is gate]
        for requirement in wanted:
            self.checks.append(
                check_requirement(requirement, self.figure(requirement.figure), gate)
            )
        aim = self.goal.optimize[0]
        if _GATES[aim] is gate:
            self.checks.append(check_better(self.goal, self.figure(aim), gate))
        if any(check.passed is False for check in self.checks):
            raise _Broken


def judge(subject: Subject, report: Report) -> Judgement:
    """Take a candidate through every gate.

    Raises:
        Unstable: Timing found no quiet or stable window; nothing follows from that.
        InvalidData: The gate's data does not fit the model.
    """
    goal = with_floors(subject.goal, subject.task)
    alpha = per_figure_alpha(gate_alpha(goal.confidence, subject.gate_use), len(goal.figures))
    findings = _Findings(goal)
    bench = _Bench(subject, findings, alpha, report)
    with ExitStack() as stack:
        try:
            bench.run(stack)
        except _Broken:
            pass
        except RunFailed as error:
            findings.checks.append(
                Check(gate=Gate.FIDELITY, passed=False, text=f"it could not be run: {error}")
            )
    verdict, reasons = conclude(findings.checks)
    evaluation = Evaluation(
        verdict=verdict,
        reasons=reasons,
        checks=tuple(findings.checks),
        figures=tuple(findings.figures),
        certificate=Certificate(
            host=subject.host,
            provider=bench.session.provider,
            issued_unix_s=time.time(),
            confidence=goal.confidence,
            gate_use=subject.gate_use,
            gate_sha256=subject.gate_sha256,
        ),
    )
    return Judgement(
        evaluation=evaluation, session=bench.session, batch_difference=bench.batch_difference
    )


class _Bench:
    """Both models side by side, and the gates run on them."""

    def __init__(self, subject: Subject, findings: _Findings, alpha: float, report: Report) -> None:
        self.subject = subject
        self.session = subject.session
        self.batch_difference: dict[str, float] = {}
        self._findings = findings
        self._alpha = alpha
        self._report = report

    def run(self, stack: ExitStack) -> None:
        subject, findings = self.subject, self._findings
        self._report("lint", 0.0, "")
        for check in lint(
            subject.original, subject.variant, subject.original_session, subject.session
        ):
            findings.check(check)
        findings.figures.append(_size_figure(subject.original, subject.variant))
        findings.require(Gate.LINT)
        original = stack.enter_context(closing(Session(subject.original, subject.original_session)))
        variant = stack.enter_context(closing(Session(subject.variant, subject.session)))
        items = self._judge_answers(original, variant)
        self._measure_speed(original, variant, items)
        self._measure_memory(items)

    def _judge_answers(self, original: Session, variant: Session) -> Arrays | None:
        """Fidelity, batch invariance and accuracy on the gate's items; None without any."""
        subject, findings, signature = self.subject, self._findings, original.signature
        if subject.gate_data is None:
            findings.check(
                Check(
                    gate=Gate.FIDELITY,
                    passed=None,
                    text="fidelity is not judged: no gate data is declared; name an .npz as "
                    "data.gate in hone.yaml",
                )
            )
            if subject.session.max_batch > 1:
                # Nobody has seen that its answers do not depend on their neighbours.
                self.session = replace(subject.session, max_batch=1)
            return None
        items, labels = load_arrays(subject.gate_data, signature)
        self._report("fidelity", 0.05, f"{item_count(items)} items")
        wanted, alone = answer(original, items), answer(variant, items)
        bad = first_bad_number(signature, wanted, alone)
        if bad is not None:
            findings.check(
                Check(
                    gate=Gate.FIDELITY,
                    passed=False,
                    text=f"output '{bad[0]}' of item {bad[1]} is not a finite number where the "
                    "original's is",
                )
            )
        findings.checks.append(
            Check(gate=Gate.FIDELITY, passed=True, text="no NaN or infinity of its own")
        )
        served = self._judge_invariance(variant, items, alone)
        self._judge_fidelity(original, wanted, served)
        index = class_output(signature)
        if labels is not None and index is not None and subject.task is Task.CLASSIFICATION:
            numbers = check_labels(labels, wanted[index].shape[1])
            right = np.logical_and.reduce(
                [right_answers(index, answers, numbers) for answers in served]
            )
            findings.figures.append(
                accuracy_figure(right_answers(index, wanted, numbers), right, self._alpha)
            )
        findings.require(Gate.ACCURACY)
        return items

    def _judge_invariance(self, variant: Session, items: Arrays, alone: Outputs) -> list[Outputs]:
        """The answers in every arrangement that will be served; unbatched if they must be."""
        self._report("batch invariance", 0.15, "")
        most = self.session.max_batch
        if most == 1 or not variant.signature.has_batch_dimension:
            self.session = replace(self.session, max_batch=1)
            text = "it is served unbatched, so no answer can depend on another"
            self._findings.check(Check(gate=Gate.INVARIANCE, passed=True, text=text))
            return [alone]
        sizes = sorted({2, min(LARGER_BATCH, most), most})
        found = measure_invariance(
            variant, variant.signature, items, alone, sizes, self.subject.seed
        )
        self.batch_difference = found.difference
        self._findings.check(_describe_invariance(found, sizes))
        if not found.holds:
            self.session = replace(self.session, max_batch=1)
            return [alone]
        return [alone, *found.served]

    def _judge_fidelity(self, original: Session, wanted: Outputs, served: list[Outputs]) -> None:
        figures = self._findings.figures
        index = class_output(original.signature)
        if self.subject.task is Task.CLASSIFICATION and index is not None:
            same = np.logical_and.reduce([same_class(index, wanted, answers) for answers in served])
            figures.append(agreement_figure(same, self._alpha))
        figures.extend(similarity_figures(original.signature, wanted, served, self._alpha))
        self._findings.require(Gate.FIDELITY)

    def _measure_speed(self, original: Session, variant: Session, items: Arrays | None) -> None:
        findings, quiet = self._findings, Quiet()
        deadline = time.monotonic() + self.subject.measure_timeout_s

        def feeds(rows: int) -> Arrays:
            return _feeds(original, items, rows)

        self._report("latency", 0.3, "waiting for a quiet machine")
        findings.figures.extend(
            latency_figures(
                original,
                variant,
                feeds(1),
                batch=1,
                alpha=self._alpha,
                deadline=deadline,
                quiet=quiet,
                report=lambda share: self._report("latency", 0.3 + 0.2 * share, ""),
            )
        )
        if original.signature.has_batch_dimension:
            findings.figures.extend(
                latency_figures(
                    original,
                    variant,
                    feeds(LARGER_BATCH),
                    batch=LARGER_BATCH,
                    alpha=self._alpha,
                    deadline=deadline,
                    quiet=quiet,
                    report=lambda share: self._report("latency in batches", 0.5 + 0.2 * share, ""),
                )
            )
        rows = tuple(
            min(LARGER_BATCH, most)
            for most in (self.subject.original_session.max_batch, self.session.max_batch)
        )
        findings.figures.extend(
            throughput_figures(
                original,
                variant,
                (feeds(rows[0]), feeds(rows[1])),
                (rows[0], rows[1]),
                alpha=self._alpha,
                deadline=deadline,
                quiet=quiet,
                report=lambda share: self._report("throughput", 0.7 + 0.2 * share, ""),
            )
        )
        findings.require(Gate.LATENCY)

    def _measure_memory(self, items: Arrays | None) -> None:
        subject = self.subject
        self._report("memory", 0.9, "")
        with closing(Session(subject.original, subject.original_session)) as session:
            feeds = {
                spec: _feeds(session, items, spec.max_batch)
                for spec in (subject.original_session, self.session)
            }
        pairs = [
            (
                measure_footprint(
                    subject.original,
                    subject.original_session,
                    feeds[subject.original_session],
                ),
                measure_footprint(subject.variant, self.session, feeds[self.session]),
            )
            for _ in range(REPEATS)
        ]
        one, other = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        self._findings.figures.append(memory_figure(one, other))
        self._findings.check(
            Check(gate=Gate.MEMORY, passed=True, text=describe_footprints(one, other))
        )
        self._findings.require(Gate.MEMORY)


def _feeds(session: Session, items: Arrays | None, rows: int) -> Arrays:
    """Inputs of one run: gate items where there are enough, else made-up ones."""
    rows = rows if session.signature.has_batch_dimension else 1
    if items is None or item_count(items) < rows:
        return random_feeds(session.signature, rows)
    return next(iter(batches(take(items, slice(0, rows)), rows)))


def _size_figure(original: Path, variant: Path) -> Figure:
    one, other = read_onnx_file(original).size_bytes, read_onnx_file(variant).size_bytes

    def exact(value: float) -> Estimate:
        return Estimate(value=value, lower=value, upper=value)

    return Figure(
        name=FigureName.SIZE,
        unit="B",
        samples=1,
        value=exact(other),
        original=exact(one),
        difference=exact(other - one),
        ratio=exact(other / one),
        method="bytes on disk",
    )


def _describe_invariance(found: Invariance, sizes: list[int]) -> Check:
    name, relative = max(found.relative.items(), key=lambda pair: pair[1])
    text = (
        f"in batches of {', '.join(map(str, sizes))} and beside an extreme neighbour, '{name}' "
        f"moves by at most {found.difference[name]:.3g} ({relative:.2g} of its range; "
        f"{LARGEST_RELATIVE_DIFFERENCE:.0e} is allowed)"
    )
    if not found.holds:
        text += "; it is served unbatched and judged so"
    return Check(gate=Gate.INVARIANCE, passed=True, text=text)
