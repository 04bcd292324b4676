"""The gates in their order, cheapest first; the first that breaks ends the measuring."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass

from optimizers.contract.errors import RunFailed
from optimizers.contract.evaluation import (
    Certificate,
    Check,
    Evaluation,
    Gate,
)
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.evaluation.answers import Arrangement, JudgedItems, ask, read_gate, without_gate
from optimizers.evaluation.bounds import gate_alpha, per_bound_alpha
from optimizers.evaluation.comparison import judge_answers
from optimizers.evaluation.findings import Broken, Findings
from optimizers.evaluation.floors import output_kinds, with_floors
from optimizers.evaluation.lint import lint
from optimizers.evaluation.progress import Report
from optimizers.evaluation.quiet import Quiet, ReadUsage, read_usage
from optimizers.evaluation.robustness import check_robustness, judge_robustness, perturbations
from optimizers.evaluation.size import size_figure
from optimizers.evaluation.speed import judge_memory, judge_speed
from optimizers.evaluation.subject import Subject
from optimizers.evaluation.verdict import conclude


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


def judge(subject: Subject, report: Report, read: ReadUsage = read_usage) -> Judgement:
    """Take a candidate through every gate.

    Args:
        subject: What is judged.
        report: Takes progress.
        read: How busy the machine is.

    Raises:
        Unstable: Timing found no quiet or stable window; nothing follows from that.
        InvalidData: The gate's data does not fit the model, or the model cannot be judged under
            what the goal names.
        OutOfMemory: The runtime got too little; nothing follows from that.
    """
    with closing(Session(subject.original, subject.original_session)) as original:
        gate = read_gate(subject, original)
        if gate is not None:
            wishes = perturbations(subject.goal.require)
            check_robustness(wishes, original.signature, gate.items)
        findings = _open_findings(subject, original, gate)
        arrangement = Arrangement(session=subject.session, batch_difference={})
        try:
            _lint(subject, original, findings, report)
            with closing(Session(subject.variant, subject.session)) as variant:
                sessions = (original, variant)
                if gate is None:
                    arrangement = without_gate(subject, findings)
                else:
                    answers = ask(sessions, gate.items, subject.seed, findings, report)
                    arrangement = answers.arrangement
                    judge_answers(subject.task, gate, answers, findings)
                    judge_robustness(subject, sessions, gate, answers, findings, report)
                _measure(subject, sessions, arrangement, gate, findings, report, read)
        except Broken:
            pass
        except RunFailed as error:
            text = f"it could not be run: {error}"
            findings.checks.append(Check(gate=Gate.FIDELITY, passed=False, text=text))
    return Judgement(
        evaluation=_evaluation(subject, findings),
        session=arrangement.session,
        batch_difference=arrangement.batch_difference,
    )


def _open_findings(subject: Subject, original: Session, gate: JudgedItems | None) -> Findings:
    """Nothing found yet; alpha is divided by all that will be judged by a bound."""
    kinds = output_kinds(original.signature, None if gate is None else gate.first)
    goal = with_floors(subject.goal, subject.task, kinds)
    alpha = gate_alpha(goal.confidence, subject.gate_use)
    bounds = 1 + len(goal.require)  # the first aim, and every requirement
    return Findings(goal=goal, alpha=per_bound_alpha(alpha, bounds))


def _lint(subject: Subject, original: Session, findings: Findings, report: Report) -> None:
    report("lint", 0.0, "")
    for passed, text in lint(
        subject.original, original.signature, subject.variant, subject.session
    ):
        findings.check(Gate.LINT, passed, text)
    findings.figures.append(size_figure(subject.original, subject.variant))
    findings.require(Gate.LINT)


def _measure(
    subject: Subject,
    sessions: tuple[Session, Session],
    arrangement: Arrangement,
    gate: JudgedItems | None,
    findings: Findings,
    report: Report,
    read: ReadUsage,
) -> None:
    quiet = Quiet(subject.host.cpus, read)
    items = None if gate is None else gate.items
    served = arrangement.session
    judge_speed(subject, sessions, served.max_batch, items, findings, quiet, report)
    judge_memory(subject, sessions[0].signature, served, items, findings, report)


def _evaluation(subject: Subject, findings: Findings) -> Evaluation:
    verdict, reasons = conclude(findings.checks)
    return Evaluation(
        verdict=verdict,
        reasons=reasons,
        checks=tuple(findings.checks),
        figures=tuple(findings.figures),
        certificate=Certificate(
            host=subject.host,
            provider=subject.session.provider,
            issued_unix_s=time.time(),
            confidence=findings.goal.confidence,
            gate_use=subject.gate_use,
            gate_sha256=subject.gate_sha256,
        ),
    )
