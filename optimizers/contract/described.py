"""Recipes in words: what each step does, and the parameters that are not at their defaults."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

from optimizers.contract.recipe import Recipe
from optimizers.contract.steps import Step, step_name


def recipe_text(recipe: Recipe) -> str:
    """A recipe in one line: `prune_channels (ratio 0.5) → static_int8`."""
    return " → ".join(step_text(step) for step in recipe.steps) or "original"


def step_text(step: Step) -> str:
    """A step with its parameters, `parameter value`, as far as they are not the defaults."""
    changed = ", ".join(f"{name} {value_text(value)}" for name, value in _changed(step))
    return f"{step_name(step)} ({changed})" if changed else step_name(step)


def purpose(step: Step) -> str:
    """What a step does: the first sentence of what is written on it."""
    return (inspect.getdoc(type(step)) or "").split("\n\n")[0].replace("\n", " ")


def _changed(part: Any, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Parameters that differ from their defaults; those of a part as `part.name`."""
    for field in fields(part):
        value, default = getattr(part, field.name), _default(field)
        if value == default:
            continue
        if is_dataclass(value) and type(value) is type(default):
            yield from _changed(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", value


def _default(field: Field[Any]) -> object:
    if field.default is not MISSING:
        return field.default
    return MISSING if field.default_factory is MISSING else field.default_factory()


def value_text(value: object) -> str:
    """A parameter's value."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple):
        return "[" + ", ".join(value_text(one) for one in value) + "]"
    return str(value)
