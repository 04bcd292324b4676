"""The gates that compare answers: fidelity and accuracy."""

from __future__ import annotations

import numpy as np

from optimizers.contract.evaluation import Figure, Gate
from optimizers.contract.goal import FigureName
from optimizers.contract.profile import Task
from optimizers.contract.signature import Signature
from optimizers.evaluation.answers import Answers, JudgedItems
from optimizers.evaluation.clusters import Clusters
from optimizers.evaluation.fidelity import (
    Claims,
    agreement_figure,
    class_output,
    cosine_figure,
    first_bad_number,
    same_class,
    same_items,
    sqnr_figure,
)
from optimizers.evaluation.findings import Findings
from optimizers.evaluation.task import accuracy_figure, check_labels, right_answers


def judge_answers(task: Task, gate: JudgedItems, answers: Answers, findings: Findings) -> None:
    """Fidelity, then accuracy where there are labels.

    Raises:
        Broken: A check does not hold.
        InvalidData: The labels do not fit the model.
    """
    check_numbers(answers, findings)
    _judge_fidelity(task, gate.clusters, answers, findings)
    _judge_accuracy(task, gate, answers, findings)


def check_numbers(
    answers: Answers, findings: Findings, gate: Gate = Gate.FIDELITY, under: str = ""
) -> None:
    """Make sure that the variant answers with numbers wherever the original does.

    Args:
        answers: Of both.
        findings: Takes the check.
        gate: Where it is made.
        under: What was done to the items, for people.

    Raises:
        Broken: It does not.
    """
    for place, found in enumerate(answers.variant):
        bad = first_bad_number(answers.signature, answers.original, found)
        if bad is not None:
            company = "alone" if place == 0 else "in a batch"
            findings.check(
                gate,
                False,
                f"output '{bad[0]}' of item {bad[1]}, {company}, is not a finite number where the "
                f"original's is{under}",
            )
    findings.check(gate, True, f"no NaN or infinity of its own{under}")


def fidelity(task: Task, clusters: Clusters | None, answers: Answers, alpha: float) -> list[Figure]:
    """Agreement, cosine and sqnr, as far as the outputs have them."""
    signature, original, variant = answers.signature, answers.original, answers.variant
    same = _same(task, answers)
    figures = [
        agreement_figure(same, alpha, clusters) if same else None,
        cosine_figure(signature, original, variant, alpha, clusters),
        sqnr_figure(signature, original, variant, alpha, clusters),
    ]
    return [figure for figure in figures if figure is not None]


def answer_figures(task: Task, items: JudgedItems, answers: Answers, alpha: float) -> list[Figure]:
    """Fidelity and, where there are labels, accuracy.

    Raises:
        InvalidData: The labels do not fit the model.
    """
    right = accuracy(task, items, answers, alpha)
    return fidelity(task, items.clusters, answers, alpha) + ([] if right is None else [right])


def accuracy(task: Task, gate: JudgedItems, answers: Answers, alpha: float) -> Figure | None:
    """Accuracy beside the original's; None without labels or without scores of classes.

    Raises:
        InvalidData: The labels do not fit the model.
    """
    index = class_output(answers.signature) if task is Task.CLASSIFICATION else None
    if index is None or gate.labels is None:
        return None
    numbers = check_labels(gate.labels, answers.original[index].shape[1])
    right = [right_answers(index, found, numbers) for found in answers.variant]
    return accuracy_figure(
        right_answers(index, answers.original, numbers),
        np.logical_and.reduce(right),
        alpha,
        gate.clusters,
    )


def _judge_fidelity(
    task: Task, clusters: Clusters | None, answers: Answers, findings: Findings
) -> None:
    findings.figures += fidelity(task, clusters, answers, findings.alpha)
    findings.missing |= {
        FigureName.AGREEMENT: _no_classes(task, answers.signature),
        FigureName.COSINE: "no floating output has more than one element an item",
        FigureName.SQNR: "the model has no floating output",
    }
    findings.require(Gate.FIDELITY)


def _same(task: Task, answers: Answers) -> dict[str, Claims]:
    """Output name → per item, whether its answer is the same in every company."""
    same: dict[str, Claims] = {}
    classes = class_output(answers.signature) if task is Task.CLASSIFICATION else None
    for index, spec in enumerate(answers.signature.outputs):
        if index == classes or not spec.is_floating:
            compare = same_class if index == classes else same_items
            same[spec.name] = np.logical_and.reduce(
                [compare(index, answers.original, found) for found in answers.variant]
            )
    return same


def _judge_accuracy(task: Task, gate: JudgedItems, answers: Answers, findings: Findings) -> None:
    figure = accuracy(task, gate, answers, findings.alpha)
    if figure is not None:
        findings.figures.append(figure)
    elif task is not Task.CLASSIFICATION or class_output(answers.signature) is None:
        findings.missing[FigureName.ACCURACY] = _no_classes(task, answers.signature)
    else:
        findings.missing[FigureName.ACCURACY] = "declare data.gate with `labels` in hone.yaml"
    findings.require(Gate.ACCURACY)


def _no_classes(task: Task, signature: Signature) -> str:
    if task is not Task.CLASSIFICATION:
        return f"the task is {task}; declare task: classification in hone.yaml"
    outputs = ", ".join(
        f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in signature.outputs
    )
    return f"the model has no single score output, one floating row of scores an item: {outputs}"
