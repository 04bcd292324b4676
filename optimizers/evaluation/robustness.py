"""The gate that compares answers to items that differ from those that were recorded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from optimizers.calibration import Arrays, item_count
from optimizers.contract.evaluation import Figure, Gate
from optimizers.contract.goal import Goal
from optimizers.contract.perturbation import Perturbation
from optimizers.contract.runtime import Session
from optimizers.evaluation.answers import Answers, GateItems
from optimizers.evaluation.comparison import accuracy, check_numbers, fidelity
from optimizers.evaluation.fidelity import answer
from optimizers.evaluation.findings import Findings
from optimizers.evaluation.invariance import LARGER_BATCH
from optimizers.evaluation.perturbing import check_perturbation, perturbed
from optimizers.evaluation.progress import Report
from optimizers.evaluation.subject import Subject


def perturbations(goal: Goal) -> tuple[Perturbation, ...]:
    """Everything that a goal wants to be judged under, each once, in the order written."""
    named = (requirement.under for requirement in goal.require)
    return tuple(dict.fromkeys(under for under in named if under is not None))


def check_robustness(subject: Subject, original: Session, items: Arrays) -> None:
    """Make sure, before anything is measured, that the model can be judged as the goal wants.

    Raises:
        InvalidData: It takes nothing that can be perturbed in such a way.
    """
    for wish in perturbations(subject.goal):
        check_perturbation(original.signature, items, wish)


def judge_robustness(
    subject: Subject,
    sessions: tuple[Session, Session],
    gate: GateItems,
    clean: Answers,
    findings: Findings,
    report: Report,
) -> None:
    """Fidelity and accuracy under each perturbation that the goal names.

    Both models get the same perturbed items; the variant answers each alone and, where it takes
    them, in shuffled batches.

    Raises:
        Broken: A requirement does not hold, or an answer is no number where the original's is.
        RunFailed: The runtime refused.
        InvalidData: Perturbed numbers are too large for their type.
    """
    wishes = perturbations(subject.goal)
    for wish in wishes:
        report(f"under {wish.text}", 0.28, f"{item_count(gate.items)} items")
        answers = _ask(subject, sessions, gate.items, clean, wish)
        check_numbers(answers, findings, Gate.ROBUSTNESS, f" under {wish.text}")
        figures = fidelity(subject.task, gate.clusters, answers, findings.alpha)
        right = accuracy(subject.task, gate, answers, findings.alpha)
        figures += [] if right is None else [right]
        findings.figures += [_under(figure, wish) for figure in figures]
    if wishes:
        findings.require(Gate.ROBUSTNESS)


def _ask(
    subject: Subject,
    sessions: tuple[Session, Session],
    items: Arrays,
    clean: Answers,
    wish: Perturbation,
) -> Answers:
    original, variant = sessions
    changed = perturbed(clean.signature, items, wish, subject.seed)
    served = [answer(variant, changed)]
    if clean.arrangement.batch_difference:
        order = np.random.default_rng(subject.seed).permutation(item_count(items))
        served.append(answer(variant, changed, order, LARGER_BATCH))
    return replace(clean, original=answer(original, changed), variant=tuple(served))


def _under(figure: Figure, wish: Perturbation) -> Figure:
    condition = ", ".join(part for part in (wish.text, figure.condition) if part)
    return replace(figure, under=wish.text, condition=condition)
