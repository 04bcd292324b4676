"""Whether steps may and can be tried, and with which values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

from optimizers.contract.declaration import Choice, Need, Place, Range, Value
from optimizers.contract.errors import InvalidDocument
from optimizers.contract.evidence import Evidence
from optimizers.contract.recipe import Recipe
from optimizers.contract.search import Search
from optimizers.contract.steps import STEP_TYPES, Step, misplaced, step_name

AnyStep = TypeVar("AnyStep", bound=Step)

_CAN_GO: Final = (Place.CLEAN, Place.SESSION)
"""Without a step of these places, the rest of a recipe is still worth trying."""


def fitted(steps: Sequence[Step], evidence: Evidence, search: Search) -> Recipe | None:
    """A recipe of these steps in the order that a search composes, as far as they may be tried.

    Args:
        steps: In any order.
        evidence: Says what there is.
        search: Says which steps and values may be tried.

    Returns:
        The recipe; None where a step that matters may not be tried, or lacks what it needs.
    """
    allowed = [step for step in steps if not search.steps or step_name(step) in search.steps]
    lost = [step for step in steps if step not in allowed]
    if not allowed or any(step.declares.place not in _CAN_GO for step in lost):
        return None
    if any(not step.declares.needs <= _met(evidence) for step in allowed):
        return None
    try:
        chosen = [_narrowed(step, search) for step in sorted(allowed, key=_order)]
    except InvalidDocument:  # values that no such step may have
        return None
    return None if misplaced(chosen) else Recipe(steps=tuple(chosen))


def as_allowed(step: AnyStep, search: Search) -> AnyStep:
    """The step as it will be tried, for a reason to speak of; as it is where it cannot be."""
    try:
        return _narrowed(step, search)
    except InvalidDocument:
        return step


def numbers(kind: type[Step], key: str, search: Search) -> list[float]:
    """What a step's parameter may be, sorted; of a range, its ends."""
    declared = kind.declares.ranges[key]
    allowed = search.values.get(f"{step_name(kind)}.{key}", declared)
    ends = allowed.values if isinstance(allowed, Choice) else (allowed.low, allowed.high)
    return sorted(float(one) for one in ends if _is_number(one))


def _order(step: Step) -> tuple[Place, int]:
    return step.declares.place, STEP_TYPES.index(type(step))


def _met(evidence: Evidence) -> frozenset[Need]:
    there = {
        Need.CALIBRATION: evidence.data.get("calibration", 0) > 0,
        Need.TRAINING: evidence.data.get("train", 0) > 0,
        Need.LABELS: evidence.has_labels,
        Need.CUDA: evidence.provider in ("cuda", "tensorrt"),
    }
    return frozenset(need for need, is_there in there.items() if is_there)


def _narrowed(step: AnyStep, search: Search) -> AnyStep:
    """The step with each parameter at the nearest value that the search allows."""
    name = step_name(step)
    for key in step.declares.ranges:
        allowed = search.values.get(f"{name}.{key}")
        if allowed is not None:
            step = _with(step, key.split("."), _nearest(_of(step, key), allowed))
    return step


def _of(step: Step, key: str) -> Any:
    value: Any = step
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _with(one: Any, keys: Sequence[str], value: Value) -> Any:
    first, *rest = keys
    return replace(one, **{first: _with(getattr(one, first), rest, value) if rest else value})


def _nearest(present: Value, allowed: Range) -> Value:
    """A number's nearest neighbour; of others the first, unless the present one is allowed."""
    if not isinstance(allowed, Choice):
        inside = min(max(float(present), allowed.low), allowed.high)
        return round(inside) if isinstance(present, int) else inside
    if present in allowed.values:
        return present
    if _is_number(present) and all(map(_is_number, allowed.values)):
        return min(allowed.values, key=lambda one: abs(float(one) - float(present)))
    return allowed.values[0]


def _is_number(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
