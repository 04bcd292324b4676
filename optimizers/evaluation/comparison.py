"""The gates that compare answers: fidelity and accuracy."""

from __future__ import annotations

import numpy as np

from optimizers.contract.evaluation import Gate
from optimizers.contract.goal import FigureName
from optimizers.contract.profile import Task
from optimizers.contract.signature import Signature
from optimizers.evaluation.answers import Answers, GateItems
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


def judge_answers(task: Task, gate: GateItems, answers: Answers, findings: Findings) -> None:
    """Fidelity, then accuracy where there are labels.

    Raises:
        Broken: A check does not hold.
        InvalidData: The labels do not fit the model.
    """
    _check_numbers(answers, findings)
    _judge_fidelity(task, gate.clusters, answers, findings)
    _judge_accuracy(task, gate, answers, findings)


def _check_numbers(answers: Answers, findings: Findings) -> None:
    for place, found in enumerate(answers.variant):
        bad = first_bad_number(answers.signature, answers.original, found)
        if bad is not None:
            company = "alone" if place == 0 else "in a batch"
            findings.check(
                Gate.FIDELITY,
                False,
                f"output '{bad[0]}' of item {bad[1]}, {company}, is not a finite number where the "
                "original's is",
            )
    findings.check(Gate.FIDELITY, True, "no NaN or infinity of its own")


def _judge_fidelity(
    task: Task, clusters: Clusters | None, answers: Answers, findings: Findings
) -> None:
    signature, original, variant = answers.signature, answers.original, answers.variant
    same = _same(task, answers)
    if same:
        findings.figures.append(agreement_figure(same, findings.alpha, clusters))
    cosine = cosine_figure(signature, original, variant, findings.alpha, clusters)
    sqnr = sqnr_figure(signature, original, variant, findings.alpha, clusters)
    findings.figures += [figure for figure in (cosine, sqnr) if figure is not None]
    findings.missing |= {
        FigureName.AGREEMENT: _no_classes(task, signature),
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


def _judge_accuracy(task: Task, gate: GateItems, answers: Answers, findings: Findings) -> None:
    index = class_output(answers.signature) if task is Task.CLASSIFICATION else None
    if index is None:
        findings.missing[FigureName.ACCURACY] = _no_classes(task, answers.signature)
    elif gate.labels is None:
        findings.missing[FigureName.ACCURACY] = "declare data.gate with `labels` in hone.yaml"
    else:
        numbers = check_labels(gate.labels, answers.original[index].shape[1])
        right = [right_answers(index, found, numbers) for found in answers.variant]
        findings.figures.append(
            accuracy_figure(
                right_answers(index, answers.original, numbers),
                np.logical_and.reduce(right),
                findings.alpha,
                gate.clusters,
            )
        )
    findings.require(Gate.ACCURACY)


def _no_classes(task: Task, signature: Signature) -> str:
    if task is not Task.CLASSIFICATION:
        return f"the task is {task}; declare task: classification in hone.yaml"
    outputs = ", ".join(
        f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in signature.outputs
    )
    return f"the model has no single score output, one floating row of scores an item: {outputs}"
