"""What an operator writes beside a model (`hone.yaml`), read into values."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Final, TypeVar

from pydantic import BeforeValidator, PlainSerializer

from optimizers.contract.documents import Document, Path
from optimizers.contract.goal import Goal, parse_figure, parse_requirement
from optimizers.contract.recipe import Recipe, recipe_from_data

_PROFILE_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_HASH_LIKE: Final = re.compile(r"[0-9a-f]{8,64}")
_RESERVED_NAMES: Final = frozenset({"original", "latest", "stable", "canary"})
_Choice = TypeVar("_Choice", bound=StrEnum)
_DATA_KEYS: Final = ("calibration", "train", "search", "gate")


class Task(StrEnum):
    """What a model's answers are, which decides how two of them are compared."""

    CLASSIFICATION = "classification"
    EMBEDDING = "embedding"
    REGRESSION = "regression"
    OTHER = "other"


class HoldVersion(StrEnum):
    """Which version answers by default when a new one appears."""

    NEVER = "never"
    UNTIL_PROVEN = "until_proven"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFiles:
    """Paths of `.npz` files, relative to the model's directory, or None.

    Each holds one array per model input, first axis = items, and optionally `labels`.
    """

    calibration: str | None = None
    train: str | None = None
    search: str | None = None
    gate: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """An operator's wish for one model: a recipe and the goal it must reach."""

    name: str
    recipe: Recipe
    goal: Goal = field(default_factory=Goal)

    def to_data(self) -> dict[str, Any]:
        """Plain data with the keys of a profile file, and its name."""
        return {
            "name": self.name,
            "recipe": self.recipe.to_data(),
            "goal": {
                "optimize": [str(figure) for figure in self.goal.optimize],
                "require": [requirement.text for requirement in self.goal.require],
                "confidence": self.goal.confidence,
            },
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPolicy:
    """Everything that `hone.yaml` says of one model.

    Attributes:
        task: How answers are compared.
        data: Files for calibration, training, search and the gate.
        serve: Name of the profile to build, prove and promote unasked; None for the original.
        hold_version: Whether a new version waits for its profile's verdict.
        profiles: By name.
    """

    task: Task = Task.OTHER
    data: DataFiles = field(default_factory=DataFiles)
    serve: str | None = None
    hold_version: HoldVersion = HoldVersion.NEVER
    profiles: dict[str, Profile] = field(default_factory=dict)


def model_policy(text: str, source: str) -> ModelPolicy:
    """Read the text of a `hone.yaml`.

    Raises:
        InvalidDocument: It names the file, the line, the key and what was expected.
    """
    document = Document(text, source)
    top = document.mapping((), ("task", "data", "serve", "hold_version", "profiles"))
    names = document.mapping(("profiles",)) if "profiles" in top else {}
    profiles = {name: _profile(document, ("profiles", name), name) for name in names}
    serve = top.get("serve")
    if serve is not None and serve != "original" and serve not in profiles:
        known = ", ".join(profiles) or "none is defined"
        raise document.error(("serve",), f"there is no profile '{serve}'; profiles: {known}")
    return ModelPolicy(
        task=_choice(document, ("task",), Task, top.get("task", Task.OTHER)),
        data=_data(document, top),
        serve=None if serve == "original" else serve,
        hold_version=_choice(
            document, ("hold_version",), HoldVersion, top.get("hold_version", HoldVersion.NEVER)
        ),
        profiles=profiles,
    )


def profile_document(text: str, source: str, name: str) -> Profile:
    """Read a file that holds one profile: the keys `recipe` and `goal`.

    Raises:
        InvalidDocument: It names the file, the line, the key and what was expected.
    """
    return _profile(Document(text, source), (), name)


def _stored_profile(data: object) -> object:
    if not isinstance(data, dict):
        return data
    body = {key: value for key, value in data.items() if key != "name"}
    return profile_document(json.dumps(body), "stored profile", str(data.get("name", "")))


StoredProfile = Annotated[
    Profile, BeforeValidator(_stored_profile), PlainSerializer(lambda profile: profile.to_data())
]
"""A profile as a field of a stored value."""


def _data(document: Document, top: dict[str, Any]) -> DataFiles:
    if "data" not in top:
        return DataFiles()
    files = document.mapping(("data",), _DATA_KEYS)
    for key, value in files.items():
        if not isinstance(value, str) or not value:
            raise document.error(("data", key), f"expected the path of an .npz file, got {value!r}")
        if value.startswith("/") or ".." in value.split("/"):
            raise document.error(
                ("data", key), f"expected a path below the model's directory, got '{value}'"
            )
    return DataFiles(**files)


def _profile(document: Document, path: Path, name: str) -> Profile:
    if not _PROFILE_NAME.fullmatch(name) or name in _RESERVED_NAMES or _HASH_LIKE.fullmatch(name):
        raise document.error(
            path,
            f"'{name}' cannot name a profile; expected a letter, then letters, digits, '_', '.' "
            f"or '-' (at most 64), not {', '.join(sorted(_RESERVED_NAMES))} and not like a hash",
        )
    entries = document.mapping(path, ("recipe", "goal"))
    if "recipe" not in entries:
        raise document.error(path, "a profile needs a recipe, for example [{dynamic_int8: {}}]")
    recipe = recipe_from_data(entries["recipe"], document, (*path, "recipe"))
    if not recipe.steps:
        raise document.error((*path, "recipe"), "expected at least one step")
    goal = _goal(document, (*path, "goal")) if "goal" in entries else Goal()
    return Profile(name=name, recipe=recipe, goal=goal)


def _goal(document: Document, path: Path) -> Goal:
    entries = document.mapping(path, ("optimize", "require", "confidence"))

    def sentences(key: str, default: list[str]) -> list[str]:
        value = entries.get(key, default)
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise document.error((*path, key), f"expected a list of texts, got {value!r}")
        return value

    confidence = entries.get("confidence", 0.95)
    if isinstance(confidence, bool) or not isinstance(confidence, int | float):
        raise document.error((*path, "confidence"), f"expected a number, got {confidence!r}")
    optimize = []
    for index, name in enumerate(sentences("optimize", ["latency_p50"])):
        with document.at((*path, "optimize", index)):
            optimize.append(parse_figure(name))
    require = []
    for index, text in enumerate(sentences("require", [])):
        with document.at((*path, "require", index)):
            require.append(parse_requirement(text))
    with document.at((*path, "confidence")):
        return Goal(optimize=tuple(optimize), require=tuple(require), confidence=float(confidence))


def _choice(document: Document, path: Path, kind: type[_Choice], value: object) -> _Choice:
    try:
        return kind(str(value))
    except ValueError:
        expected = ", ".join(kind)
        raise document.error(path, f"expected one of {expected}, got {value!r}") from None
