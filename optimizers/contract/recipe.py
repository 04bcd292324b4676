"""An ordered list of steps, and its form in files: `[{static_int8: {per_channel: true}}]`."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any

from pydantic import ValidationError

from optimizers.contract.documents import Document, Path, shown, unknown_key
from optimizers.contract.errors import InvalidDocument
from optimizers.contract.steps import STEPS_BY_NAME, Step, misplaced, step_name
from optimizers.contract.stored import StoredBy, adapter


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is done to the original, in order. The original's own recipe is empty."""

    steps: tuple[Step, ...] = ()

    def to_data(self) -> list[dict[str, dict[str, Any]]]:
        """Plain data that `recipe_from_data` reads back."""
        return [{step_name(step): asdict(step)} for step in self.steps]

    def __str__(self) -> str:
        return " → ".join(step_name(step) for step in self.steps) or "original"


def recipe_from_data(data: object, document: Document, path: Path = ()) -> Recipe:
    """Read a recipe out of a document.

    Args:
        data: A list of steps, each a name or a mapping from one name to its parameters.
        document: Where it stands, for errors.
        path: The keys that lead to it.

    Raises:
        InvalidDocument: A step or a parameter is unknown or out of range.
    """
    if not isinstance(data, list):
        raise document.error(path, f"expected a list of steps, got {type(data).__name__}")
    steps = tuple(_step(item, document, (*path, index)) for index, item in enumerate(data))
    wrong = misplaced(steps)
    if wrong is not None:
        index, why = wrong
        raise document.error((*path, index, step_name(steps[index])), why)
    return Recipe(steps=steps)


def _stored_recipe(data: object) -> Recipe:
    if isinstance(data, Recipe):
        return data
    return recipe_from_data(data, Document("", "stored recipe"))


StoredRecipe = Annotated[Recipe, StoredBy(_stored_recipe, Recipe.to_data)]
"""A recipe as a field of a stored value: JSON like in `hone.yaml`, checked when read back."""


def _step(data: object, document: Document, path: Path) -> Step:
    if isinstance(data, str):
        data = {data: {}}
    if not isinstance(data, dict) or len(data) != 1:
        raise document.error(path, "expected one step, for example {dynamic_int8: {}}")
    [(name, parameters)] = data.items()
    kind = STEPS_BY_NAME.get(name)
    if kind is None:
        raise document.error((*path, name), unknown_key(str(name), STEPS_BY_NAME))
    parameters = parameters or {}
    if not isinstance(parameters, dict):
        raise document.error((*path, name), "expected a mapping of parameters")
    known = [field.name for field in fields(kind)]
    for key in parameters:
        if key not in known:
            raise document.error((*path, name, key), unknown_key(str(key), known))
        if not _is_finite(parameters[key]):
            raise document.error(
                (*path, name, key), f"expected finite numbers, got {shown(parameters[key])}"
            )
    try:
        step: Step = adapter(kind).validate_python(parameters)
    except InvalidDocument as error:
        raise document.error((*path, name), str(error)) from error
    except ValidationError as error:
        first = error.errors()[0]
        keys = [part for part in first["loc"] if part in known]
        raise document.error(
            (*path, name, *keys), f"{first['msg']}, got {shown(first['input'])}"
        ) from error
    return step


def _is_finite(value: object) -> bool:
    """Whether every number in it can be stored: JSON knows neither infinity nor NaN."""
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)
