"""What a search tries of a step's parameters: what it declares or an operator wrote, if it fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import sqrt
from typing import Final

from optimizers.contract.declaration import Choice, Need, Range, Real, Value
from optimizers.contract.documents import Document, shown
from optimizers.contract.errors import InvalidDocument
from optimizers.contract.evidence import Evidence
from optimizers.contract.recipe import recipe_from_data
from optimizers.contract.steps import STEPS_BY_NAME, Step

_OF_VALUES: Final[Mapping[tuple[str, Value], Need]] = {
    ("prune_channels.importance", "activation"): Need.CALIBRATION,
    ("prune_channels.importance", "taylor"): Need.TRAINING,
}
"""What some values need beyond what their step does."""


class NothingToTry(Exception):
    """No value of a parameter can be tried here; its text says why."""


def points(one: Range) -> tuple[Value, ...]:
    """What a grid tries: every choice, or both ends of a range and the middle between them."""
    if isinstance(one, Choice):
        return one.values
    middle = sqrt(one.low * one.high) if one.log else (one.low + one.high) / 2
    return (one.low, middle, one.high)


def within(one: Range, value: Value) -> Value | None:
    """The value as the range has it; None where it is none of the range's."""
    if isinstance(one, Choice):
        return next((each for each in one.values if _same(each, value)), None)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and one.low <= float(value) <= one.high else None


def value_of(step: Step, parameter: str) -> Value:
    """A step's parameter; one of a part is written `part.name`."""
    found: object = step
    for name in parameter.split("."):
        found = getattr(found, name)
    assert isinstance(found, bool | int | float | str)
    return found


def step_with(name: str, values: Mapping[str, Value]) -> Step:
    """A step as it is by default but for some parameters."""
    step = STEPS_BY_NAME[name]()
    parts: dict[str, dict[str, Value]] = {}
    plain: dict[str, object] = {}
    for parameter, value in values.items():
        part, _, inner = parameter.rpartition(".")
        if part:
            parts.setdefault(part, {})[inner] = value
        else:
            plain[parameter] = value
    for part, given in parts.items():
        plain[part] = replace(getattr(step, part), **given)
    changed: Step = replace(step, **plain)  # type: ignore[arg-type]  # checked by `fitting`
    return changed


def ranges_of(
    name: str, values: Mapping[str, Choice | Real], evidence: Evidence, met: frozenset[Need]
) -> dict[str, Range]:
    """What is tried of each parameter of a step.

    Args:
        name: Of the step.
        values: What an operator wrote in place of what steps declare, as in `Search.values`.
        evidence: On the model; a value that cannot do anything to it is left out.
        met: What there is of what values may need.

    Raises:
        InvalidDocument: A value does not fit its parameter.
        NothingToTry: No value of a parameter is left.
    """
    found: dict[str, Range] = {}
    for parameter, declared in STEPS_BY_NAME[name].declares.ranges.items():
        key = f"{name}.{parameter}"
        asked = _fitting(name, parameter, values[key]) if key in values else declared
        found[parameter] = _here(key, asked, evidence, met)
    return found


def _here(key: str, asked: Range, evidence: Evidence, met: frozenset[Need]) -> Range:
    if isinstance(asked, Real):
        return asked
    reasons = {value: _why_not(key, value, evidence, met) for value in asked.values}
    left = tuple(value for value in asked.values if not reasons[value])
    if not left:
        raise NothingToTry(f"{key}: {'; '.join(dict.fromkeys(reasons.values()))}")
    return Choice(left)


def _why_not(key: str, value: Value, evidence: Evidence, met: frozenset[Need]) -> str:
    need = _OF_VALUES.get((key, value))
    if need is not None and need not in met:
        return f"{value} needs {need}"
    if key.endswith(".embeddings") and value and not evidence.embedding_bytes:
        return "the model looks nothing up in a table"
    if key == "drop_layers.count" and int(value) > evidence.residual_blocks:
        return f"the model has {evidence.residual_blocks} blocks that can be left out"
    if key == "set_session.threads" and int(value) > evidence.host.cpus:
        return f"this machine has {evidence.host.cpus} processors"
    heads = max(evidence.attention_heads, default=0)
    if key == "drop_heads.count" and int(value) >= heads:
        return f"the model's attentions have at most {heads} heads"
    return ""


def _fitting(name: str, parameter: str, asked: Choice | Real) -> Range:
    """A range whose values all fit a parameter, each once and as the step holds it.

    Raises:
        InvalidDocument: One does not.
    """
    key = f"search.values: {name}.{parameter}"
    if isinstance(asked, Real):
        if not isinstance(value_of(STEPS_BY_NAME[name](), parameter), float):
            raise InvalidDocument(f"{key} has no range between numbers; list the values to try")
        for end in (asked.low, asked.high):
            _checked(name, parameter, key, end)
        return asked
    kept: list[Value] = []
    for value in asked.values:
        held = _checked(name, parameter, key, value)
        if within(Choice(tuple(kept)), held) is None:
            kept.append(held)
    return Choice(tuple(kept))


def _checked(name: str, parameter: str, key: str, value: Value) -> Value:
    data: object = value
    for part in reversed(parameter.split(".")):
        data = {part: data}
    try:
        [step] = recipe_from_data([{name: data}], Document("", "search.values")).steps
    except InvalidDocument as error:
        raise InvalidDocument(f"{key} cannot be {shown(value)}: {error}") from error
    held = value_of(step, parameter)
    if not _same(held, value):
        kind = type(held).__name__
        raise InvalidDocument(f"{key} expected a value of type {kind}, got {shown(value)}")
    return held


def _same(one: Value, other: Value) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)
