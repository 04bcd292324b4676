"""What an operator writes beside a model (`hone.yaml`), read into values."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Annotated, Any, Final, Self, TypeVar

from optimizers.contract.below import why_not_below
from optimizers.contract.documents import Document, Path, cut, shown, shown_key
from optimizers.contract.duration import duration_s
from optimizers.contract.goal import Goal, Requirement, parse_figure, parse_requirement
from optimizers.contract.padding import PaddingPolicy, padding_policy
from optimizers.contract.preprocessing import Preprocessing, preprocessing_from_data
from optimizers.contract.recipe import Recipe, recipe_from_data
from optimizers.contract.search import Search, search_from_data
from optimizers.contract.stored import StoredBy

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_HASH_LIKE: Final = re.compile(r"[0-9a-f]{8,64}")
_NO_LABELS: Final = frozenset({"original", "latest"})
_NO_PROFILES: Final = _NO_LABELS | {"stable", "canary"}
_LARGEST_VERSION: Final = 10**18 - 1
_LARGEST_PRICE: Final = 1e12
_LONGEST_SENTENCE: Final = 200
_Choice = TypeVar("_Choice", bound=StrEnum)
_TOP_KEYS: Final = (
    *("task", "data", "serve", "hold_version", "profiles", "labels"),
    *("padding", "trim", "preprocess", "price", "latency_budget"),
)
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
    """Paths relative to the model's directory, or None.

    Each is an `.npz` or `.parquet` with one array or column per model input, first axis = items,
    and optionally `labels` and `groups` (which items belong together); an `.npy` with a model's
    only input; or a folder of images.
    """

    calibration: str | None = None
    train: str | None = None
    search: str | None = None
    gate: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """An operator's wish for one model: a goal, and a recipe or a search for one.

    Attributes:
        name: What clients and operators call it.
        recipe: How the goal is to be reached; without steps where it is searched for.
        goal: What must hold.
        search: How a recipe is looked for; None where it is given.
    """

    name: str
    recipe: Recipe = field(default_factory=Recipe)
    goal: Goal = field(default_factory=Goal)
    search: Search | None = None

    def without_secrets(self) -> Self:
        """The same, with `***` for passwords: what is kept beside results, and shown."""
        if self.search is None:
            return self
        return replace(self, search=self.search.without_secrets())

    def to_data(self) -> dict[str, Any]:
        """Plain data with the keys of a profile file, and its name."""
        goal = {
            "optimize": [str(figure) for figure in self.goal.optimize],
            "require": [requirement.text for requirement in self.goal.require],
            "confidence": self.goal.confidence,
        }
        if self.goal.stop_when:
            goal["stop_when"] = [requirement.text for requirement in self.goal.stop_when]
        if self.search is not None:
            return {"name": self.name, "search": self.search.to_data(), "goal": goal}
        return {"name": self.name, "recipe": self.recipe.to_data(), "goal": goal}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPolicy:
    """Everything that `hone.yaml` says of one model.

    Attributes:
        task: How answers are compared.
        data: Files for calibration, training, search and the gate.
        serve: Name of the profile to build, prove and promote unasked; None for the original.
        hold_version: Whether a new version waits for its profile's verdict.
        profiles: By name.
        labels: Other names of versions: label → number of the version's folder, which need not
            exist. No label is the name of a profile.
        padding: Which inputs are filled up so that requests of other lengths can share a run:
            `padding: {tokens: {axis: 1, value: 0, edges: [16, 32, 64], mask: attention_mask}}`,
            and which outputs are cut back to a request's own length: `trim: {hidden: 1}`, or
            `trim: {hidden: {axis: 1, like: tokens}}` where the padded inputs' edges differ.
        preprocess: What is done to every image of the data; arrays are taken as they are.
        price: Of a processor second in whatever currency, above 0; 1000 items come to `cost`.
        latency_budget_s: What 99 of 100 requests of the model may take before builds are paused
            for them, from a request to its encoded answer; 0: builds are never paused for it;
            None: what the server was told.
    """

    task: Task = Task.OTHER
    data: DataFiles = field(default_factory=DataFiles)
    serve: str | None = None
    hold_version: HoldVersion = HoldVersion.NEVER
    profiles: dict[str, Profile] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    padding: PaddingPolicy = field(default_factory=PaddingPolicy)
    preprocess: Preprocessing = field(default_factory=Preprocessing)
    price: float = 1.0
    latency_budget_s: float | None = None

    @property
    def served_profile(self) -> Profile | None:
        """The profile that `serve` names."""
        return None if self.serve is None else self.profiles[self.serve]


def model_policy(text: str, source: str) -> ModelPolicy:
    """Read the text of a `hone.yaml`.

    Raises:
        InvalidDocument: It names the file, the line, the key and what was expected.
    """
    document = Document(text, source)
    top = document.mapping((), _TOP_KEYS)
    names = document.mapping(("profiles",)) if "profiles" in top else {}
    profiles = {name: _profile(document, ("profiles", name), name) for name in names}
    return ModelPolicy(
        task=_choice(document, ("task",), Task, top.get("task", Task.OTHER)),
        data=_data(document, top),
        serve=_serve(document, top.get("serve"), profiles),
        hold_version=_choice(
            document, ("hold_version",), HoldVersion, top.get("hold_version", HoldVersion.NEVER)
        ),
        profiles=profiles,
        labels=_labels(document, profiles) if "labels" in top else {},
        padding=padding_policy(document, top),
        preprocess=_preprocess(document, top),
        price=_price(document, top.get("price", 1.0)),
        latency_budget_s=_latency_budget(document, top),
    )


def profile_document(text: str, source: str, name: str) -> Profile:
    """Read a file that holds one profile: the keys `recipe` or `search`, and `goal`.

    Raises:
        InvalidDocument: It names the file, the line, the key and what was expected.
    """
    return _profile(Document(text, source), (), name)


def _stored_profile(data: object) -> Profile:
    if isinstance(data, Profile):
        return data
    if not isinstance(data, dict):
        raise ValueError(f"expected a profile's mapping, got {type(data).__name__}")
    body = {key: value for key, value in data.items() if key != "name"}
    return _profile(Document.from_data(body, "stored profile"), (), str(data.get("name", "")))


StoredProfile = Annotated[Profile, StoredBy(_stored_profile, Profile.to_data)]
"""A profile as a field of a stored value."""


def _price(document: Document, value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value <= _LARGEST_PRICE:
        raise document.error(
            ("price",),
            f"expected what a processor second costs, above 0 and at most {_LARGEST_PRICE:g}, got "
            f"{shown(value)}",
        )
    return float(value)


def _preprocess(document: Document, top: dict[str, Any]) -> Preprocessing:
    if "preprocess" not in top:
        return Preprocessing()
    return preprocessing_from_data(top["preprocess"], document, ("preprocess",))


def _latency_budget(document: Document, top: dict[str, Any]) -> float | None:
    if "latency_budget" not in top:
        return None
    with document.at(("latency_budget",)):
        return duration_s(top["latency_budget"])


def _data(document: Document, top: dict[str, Any]) -> DataFiles:
    if "data" not in top:
        return DataFiles()
    files = document.mapping(("data",), _DATA_KEYS)
    for key, value in files.items():
        if not isinstance(value, str) or not value:
            raise document.error(
                ("data", key),
                f"expected the path of an .npz file or of other data, got {shown(value)}",
            )
        problem = why_not_below(value, "the model's directory")
        if problem:
            raise document.error(("data", key), f"{problem}, got {shown(value)}")
    return DataFiles(**files)


def _serve(document: Document, value: object, profiles: dict[str, Profile]) -> str | None:
    if value is None or value == "original":
        return None
    if not isinstance(value, str):
        raise document.error(("serve",), f"expected the name of a profile, got {shown(value)}")
    if value not in profiles:
        known = cut(", ".join(profiles)) or "none is defined"
        problem = f"there is no profile '{shown_key(value)}'; profiles: {known}"
        raise document.error(("serve",), problem)
    return value


def _labels(document: Document, profiles: dict[str, Profile]) -> dict[str, int]:
    labels = document.mapping(("labels",))
    for label, version in labels.items():
        path = ("labels", label)
        _check_name(document, path, label, "label", _NO_LABELS)
        if label in profiles:
            line = document.line(("profiles", label))
            raise document.error(
                path, f"'{label}' is also the name of a profile (line {line}); rename one of them"
            )
        is_number = isinstance(version, int) and not isinstance(version, bool)
        if not is_number or not 1 <= version <= _LARGEST_VERSION:
            raise document.error(
                path, f"expected the number of a version, 1 or more, got {shown(version)}"
            )
    return labels


def _check_name(
    document: Document, path: Path, name: str, kind: str, reserved: frozenset[str]
) -> None:
    if not _NAME.fullmatch(name) or name in reserved or _HASH_LIKE.fullmatch(name):
        raise document.error(
            path,
            f"'{shown_key(name)}' cannot name a {kind}; expected a letter, then letters, digits, "
            f"'_', '.' or '-' (at most 64), not {', '.join(sorted(reserved))} and not like a hash",
        )


def _profile(document: Document, path: Path, name: str) -> Profile:
    _check_name(document, path, name, "profile", _NO_PROFILES)
    entries = document.mapping(path, ("recipe", "goal", "search"))
    goal = _goal(document, (*path, "goal")) if "goal" in entries else Goal()
    if "search" in entries:
        if "recipe" in entries:
            raise document.error(
                (*path, "search"), "a profile has a recipe or a search for one, not both"
            )
        return Profile(name=name, goal=goal, search=search_from_data(document, (*path, "search")))
    if "recipe" not in entries:
        raise document.error(
            path,
            "a profile needs a recipe, for example [{dynamic_int8: {}}], or a search for one, for "
            "example {trials: 40, minutes: 20}",
        )
    recipe = recipe_from_data(entries["recipe"], document, (*path, "recipe"))
    if not recipe.steps:
        raise document.error((*path, "recipe"), "expected at least one step")
    return Profile(name=name, recipe=recipe, goal=goal)


def _goal(document: Document, path: Path) -> Goal:
    entries = document.mapping(path, ("optimize", "require", "stop_when", "confidence"))

    def sentences(key: str, default: list[str]) -> list[str]:
        value = entries.get(key, default)
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise document.error((*path, key), f"expected a list of texts, got {shown(value)}")
        for index, item in enumerate(value):
            if len(item) > _LONGEST_SENTENCE:
                raise document.error(
                    (*path, key, index),
                    f"expected at most {_LONGEST_SENTENCE} characters, got {shown(item)}",
                )
        return value

    confidence = entries.get("confidence", 0.95)
    if isinstance(confidence, bool) or not isinstance(confidence, int | float):
        raise document.error((*path, "confidence"), f"expected a number, got {shown(confidence)}")
    optimize = []
    for index, name in enumerate(sentences("optimize", ["latency_p50"])):
        with document.at((*path, "optimize", index)):
            optimize.append(parse_figure(name))
    if not optimize:
        raise document.error((*path, "optimize"), "expected at least one figure")

    def requirements(key: str) -> tuple[Requirement, ...]:
        parsed = []
        for index, text in enumerate(sentences(key, [])):
            with document.at((*path, key, index)):
                parsed.append(parse_requirement(text))
        return tuple(parsed)

    require, stop_when = requirements("require"), requirements("stop_when")
    with document.at((*path, "confidence")):
        return Goal(
            optimize=tuple(optimize),
            require=require,
            stop_when=stop_when,
            confidence=float(confidence),
        )


def _choice(document: Document, path: Path, kind: type[_Choice], value: object) -> _Choice:
    for choice in kind:
        if choice == value:
            return choice
    raise document.error(path, f"expected one of {', '.join(kind)}, got {shown(value)}")
