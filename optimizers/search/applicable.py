"""Which steps take part in a search, and why the others do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from optimizers.contract.declaration import TRUER, Declaration, Effect, Need, Range
from optimizers.contract.evidence import Evidence
from optimizers.contract.goal import FIGURES, FigureName, Goal, Relation
from optimizers.contract.search import Search
from optimizers.contract.steps import STEPS_BY_NAME
from optimizers.search.ranges import NothingToTry, ranges_of

_PRODUCTS: Final = ("MatMul", "Gemm")
_LAYERS: Final = ("Conv", *_PRODUCTS)
_WORKS_ON: Final[Mapping[str, tuple[str, ...]]] = {
    "low_rank": _LAYERS,
    "prune_channels": _LAYERS,
    "prune_weights": _LAYERS,
    "static_int8": _LAYERS,
    "quantize_aware": _LAYERS,
    "dynamic_int8": _PRODUCTS,
    "weights_nbits": _PRODUCTS,
    "binarize": _PRODUCTS,
    "ternarize": _PRODUCTS,
}
"""Steps that do nothing to a model without one of some operators."""


def taking_part(
    evidence: Evidence, goal: Goal, search: Search
) -> tuple[dict[str, dict[str, Range]], dict[str, str]]:
    """Sort the steps.

    A step takes part if the data and the provider that it needs are there, the model has what it
    works on, and it can better a figure of the goal. Steps that win answers back are for goals
    that name a figure of the answers: where that is only required, they take part beside a step
    that changes answers. A step that `search.steps` names need not better anything.

    Returns:
        Step → what is tried of each of its parameters; step → why it takes no part.

    Raises:
        InvalidDocument: A value of `search.values` does not fit its parameter.
    """
    met = _met(evidence)
    inside: dict[str, dict[str, Range]] = {}
    outside: dict[str, str] = {}
    for name in STEPS_BY_NAME:
        try:
            ranges = ranges_of(name, search.values, evidence, met)
        except NothingToTry as nothing:
            outside[name] = str(nothing)
            continue
        reason = _why_not(name, evidence, goal, search, met)
        if reason:
            outside[name] = reason
        else:
            inside[name] = ranges
    _leave_useless_out(inside, outside, goal, search)
    return inside, outside


def trainers(names: Mapping[str, object]) -> frozenset[str]:
    """Those among some steps that train the model as it is then to be used."""
    return frozenset(
        name
        for name in names
        if _declared(name).effect is Effect.RETRAINS and _declared(name).improves
    )


def only_with(name: str, names: Mapping[str, object]) -> frozenset[str] | None:
    """Steps one of which must be in a recipe, as a step gains nothing by itself; None: it does.

    What makes room for training gains by training, and what prepares a cut gains by cuts.
    """
    declared = _declared(name)
    if declared.effect is Effect.LOSSLESS and declared.improves <= TRUER:
        return trainers(names)
    if declared.effect is Effect.RETRAINS and not declared.improves:
        return frozenset(
            other
            for other in names
            if _declared(other).effect is Effect.LOSSY
            and declared.place < _declared(other).place < _TRAINED
        )
    return None


_TRAINED: Final = STEPS_BY_NAME["finetune"].declares.place


def _declared(name: str) -> Declaration:
    return STEPS_BY_NAME[name].declares


def _met(evidence: Evidence) -> frozenset[Need]:
    there = {
        Need.CALIBRATION: evidence.data.get("calibration", 0) > 0,
        Need.TRAINING: evidence.data.get("train", 0) > 0,
        Need.LABELS: evidence.data.get("train", 0) > 0 and evidence.has_labels,
        Need.CUDA: evidence.provider in ("cuda", "tensorrt"),
    }
    return frozenset(need for need, is_there in there.items() if is_there)


def _why_not(
    name: str, evidence: Evidence, goal: Goal, search: Search, met: frozenset[Need]
) -> str:
    if search.steps and name not in search.steps:
        return "not among the search's steps"
    missing = sorted(_declared(name).needs - met)
    if missing:
        return f"needs {' and '.join(missing)}"
    operators = _WORKS_ON.get(name, ())
    if operators and not any(layer.operator in operators for layer in evidence.layers):
        return f"the model has no {' or '.join(operators)} with a weight"
    if name not in search.steps and not _declared(name).improves & _wanted(goal):
        return f"betters nothing of the goal, which names {', '.join(sorted(_wanted(goal)))}"
    return ""


def _leave_useless_out(
    inside: dict[str, dict[str, Range]], outside: dict[str, str], goal: Goal, search: Search
) -> None:
    changed = any(_declared(name).effect is Effect.LOSSY for name in inside)
    aims = _aims(goal)
    for name in list(inside):
        wins_back = _declared(name).improves <= TRUER and bool(_declared(name).improves)
        if wins_back and not changed and not aims & TRUER and name not in search.steps:
            outside[name] = "no other step changes the answers"
            del inside[name]
    for name in list(inside):
        others = only_with(name, inside)
        if others is not None and not others:
            outside[name] = "gains nothing without a step that trains or cuts after it"
            del inside[name]


def _wanted(goal: Goal) -> frozenset[FigureName]:
    return frozenset({*goal.figures, *(one.figure for one in goal.stop_when)})


def _aims(goal: Goal) -> frozenset[FigureName]:
    """Figures that are to get better than the original's, or may have to."""
    floors = (Relation.LOSS, Relation.RELATIVE_LOSS)
    asked = {
        one.figure
        for one in (*goal.require, *goal.stop_when)
        if one.relation not in floors and not FIGURES[one.figure].compares
    }
    return frozenset({*goal.optimize, *asked})
