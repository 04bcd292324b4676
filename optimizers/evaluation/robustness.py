"""The gate that compares answers to items that differ from those that were recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from optimizers.calibration import Arrays, item_count
from optimizers.contract.evaluation import Figure, Gate
from optimizers.contract.goal import Requirement
from optimizers.contract.perturbation import Perturbation
from optimizers.contract.profile import Task
from optimizers.contract.runtime import Session
from optimizers.contract.signature import Signature
from optimizers.evaluation.answers import Answers, JudgedItems
from optimizers.evaluation.comparison import answer_figures, check_numbers
from optimizers.evaluation.fidelity import answer
from optimizers.evaluation.findings import Findings
from optimizers.evaluation.invariance import LARGER_BATCH
from optimizers.evaluation.perturbing import check_perturbation, perturbed
from optimizers.evaluation.progress import Report
from optimizers.evaluation.subject import Subject


def perturbations(requirements: Sequence[Requirement]) -> tuple[Perturbation, ...]:
    """Everything that is to be judged under something, each once, in the order written."""
    named = (requirement.under for requirement in requirements)
    return tuple(dict.fromkeys(under for under in named if under is not None))


def check_robustness(wishes: Sequence[Perturbation], signature: Signature, items: Arrays) -> None:
    """Make sure, before anything is measured, that the model can be judged as the goal wants.

    Raises:
        InvalidData: It takes nothing that can be perturbed in such a way.
    """
    for wish in wishes:
        check_perturbation(signature, items, wish)


def judge_robustness(
    subject: Subject,
    sessions: tuple[Session, Session],
    gate: JudgedItems,
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
    wishes = perturbations(subject.goal.require)
    for wish in wishes:
        report(f"under {wish.text}", 0.28, f"{item_count(gate.items)} items")
        answers = ask_under(wish, sessions, gate.items, subject.seed, clean)
        check_numbers(answers, findings, Gate.ROBUSTNESS, f" under {wish.text}")
        findings.figures += figures_under(wish, subject.task, gate, answers, findings.alpha)
    if wishes:
        findings.require(Gate.ROBUSTNESS)


def ask_under(
    wish: Perturbation,
    sessions: tuple[Session, Session],
    items: Arrays,
    seed: int,
    clean: Answers,
) -> Answers:
    """Both models' answers to the same perturbed items, in every company they had when clean.

    Args:
        wish: What is done to the items.
        sessions: The original and the variant, open.
        items: As they are.
        seed: Of noise, directions and company.
        clean: What both answer to `items`.

    Raises:
        RunFailed: The runtime refused.
        InvalidData: Perturbed numbers are too large for their type.
    """
    original, variant = sessions
    changed = perturbed(clean.signature, items, wish, seed)
    served = [answer(variant, changed)]
    if clean.arrangement.batch_difference:
        order = np.random.default_rng(seed).permutation(item_count(items))
        served.append(answer(variant, changed, order, LARGER_BATCH))
    return replace(clean, original=answer(original, changed), variant=tuple(served))


def figures_under(
    wish: Perturbation, task: Task, items: JudgedItems, answers: Answers, alpha: float
) -> list[Figure]:
    """Fidelity and, where there are labels, accuracy on perturbed items.

    Raises:
        InvalidData: The labels do not fit the model.
    """
    return [_under(figure, wish) for figure in answer_figures(task, items, answers, alpha)]


def _under(figure: Figure, wish: Perturbation) -> Figure:
    condition = ", ".join(part for part in (wish.text, figure.condition) if part)
    return replace(figure, under=wish.text, condition=condition)
