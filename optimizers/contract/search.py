"""A search: many recipes are tried for one goal, instead of one that was written down."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import isfinite
from typing import Any, Final, Self

from optimizers.contract.addresses import BY_NAME, problem_of, without_password
from optimizers.contract.declaration import Choice, Real, Value
from optimizers.contract.documents import Document, Path, shown, unknown_key
from optimizers.contract.errors import InvalidDocument
from optimizers.contract.recipe import recipe_from_data
from optimizers.contract.steps import STEPS_BY_NAME

_KEYS: Final = (
    *("sampler", "trials", "minutes", "workers", "steps", "values"),
    *("planner", "hyperband", "seed", "storage", "artefacts"),
)
_NUMBERS: Final = ("trials", "minutes", "workers")
_MOST_TRIALS: Final = 10_000
_MOST_MINUTES: Final = 60 * 24 * 365
_MOST_WORKERS: Final = 64
_URL: Final = re.compile(r"[a-z][a-z0-9+.-]*://\S+")


class Sampler(StrEnum):
    """Who proposes the next recipe; all of them are Optuna's.

    Attributes:
        GRID: Every recipe of the space, real parameters at a few values each.
        RANDOM: Independent draws.
        TPE: Tree-structured Parzen estimator (Bergstra et al., 2011), Bayesian.
        NSGA2: A genetic algorithm for several objectives (Deb et al., 2002).
    """

    GRID = "grid"
    RANDOM = "random"
    TPE = "tpe"
    NSGA2 = "nsga2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """How a profile's recipe is looked for.

    Attributes:
        sampler: Who proposes.
        trials: Most recipes that are tried, in [1, 10000].
        minutes: Longest time spent on trials, above 0 and at most a year; the final gate comes on
            top.
        workers: Processes that try recipes at once, in [1, 64].
        steps: Names of the only steps that may take part; empty: all that apply.
        values: `step.parameter` → the only values that are tried, in place of what the step
            declares. `{low: ..., high: ..., log: ...}` is a range.
        planner: Whether the planner's proposals are tried first.
        hyperband: Whether some recipes begin with a third or all of their training, in brackets;
            otherwise all begin with a ninth.
        seed: Of everything random.
        storage: Address of a database that several machines share, or `env:NAME` for what an
            environment variable holds; "": a file in the state directory. It takes no part in
            comparisons: the same is wanted wherever it is kept.
        artefacts: Where several machines share models and data, a path, a URL or `env:NAME`; "":
            the state directory. It takes no part in comparisons either.
    """

    sampler: Sampler = Sampler.TPE
    trials: int = 40
    minutes: float = 20.0
    workers: int = 1
    steps: tuple[str, ...] = ()
    values: Mapping[str, Choice | Real] = field(default_factory=dict)
    planner: bool = True
    hyperband: bool = False
    seed: int = 0
    storage: str = field(default="", compare=False)
    artefacts: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not 1 <= self.trials <= _MOST_TRIALS:
            raise InvalidDocument(f"trials must be in [1, {_MOST_TRIALS}], got {self.trials}")
        if not 0 < self.minutes <= _MOST_MINUTES:
            raise InvalidDocument(
                f"minutes must be above 0 and at most {_MOST_MINUTES}, got {self.minutes:g}"
            )
        if not 1 <= self.workers <= _MOST_WORKERS:
            raise InvalidDocument(f"workers must be in [1, {_MOST_WORKERS}], got {self.workers}")
        if self.storage and not (_URL.fullmatch(self.storage) or BY_NAME.fullmatch(self.storage)):
            raise InvalidDocument(
                "storage must be the address of a database such as postgresql://user@host/name, "
                f"or env:NAME, got {shown(without_password(self.storage))}"
            )
        problem = problem_of(self.storage)
        if problem:
            raise InvalidDocument(f"storage: {problem}")
        if self.storage and not self.artefacts:
            raise InvalidDocument(
                "artefacts must name a place that all machines reach, because storage is shared"
            )

    def without_secrets(self) -> Self:
        """The same, with `***` for passwords: what is kept beside results, and shown."""
        return replace(
            self,
            storage=without_password(self.storage),
            artefacts=without_password(self.artefacts),
        )

    def to_data(self) -> dict[str, Any]:
        """Plain data that `search_from_data` reads back."""
        return {
            "sampler": str(self.sampler),
            "trials": self.trials,
            "minutes": self.minutes,
            "workers": self.workers,
            "steps": list(self.steps),
            "values": {name: _plain(one) for name, one in self.values.items()},
            "planner": self.planner,
            "hyperband": self.hyperband,
            "seed": self.seed,
            "storage": self.storage,
            "artefacts": self.artefacts,
        }


def search_from_data(document: Document, path: Path) -> Search:
    """Read the search at `path` of a document.

    Raises:
        InvalidDocument: It names the key, the line and what was expected.
    """
    entries = document.mapping(path, _KEYS)
    sampler = entries.get("sampler", Sampler.TPE)
    if sampler not in list(Sampler):
        raise document.error(
            (*path, "sampler"), f"expected one of {', '.join(Sampler)}, got {shown(sampler)}"
        )
    given: dict[str, Any] = {
        name: _whole(document, (*path, name), entries[name])
        for name in ("trials", "workers", "seed")
        if name in entries
    }
    if "minutes" in entries:
        given["minutes"] = _number(document, (*path, "minutes"), entries["minutes"])
    for name in ("planner", "hyperband"):
        if name in entries:
            if not isinstance(entries[name], bool):
                raise document.error((*path, name), "expected true or false")
            given[name] = entries[name]
    for name in ("storage", "artefacts"):
        if name in entries:
            if not isinstance(entries[name], str):
                raise document.error(
                    (*path, name), f"expected an address, got {shown(entries[name])}"
                )
            given[name] = entries[name]
    steps = _steps(document, (*path, "steps"), entries.get("steps", []))
    values = _values(document, (*path, "values"), steps) if "values" in entries else {}
    for name in _NUMBERS:
        if name in given:
            with document.at((*path, name)):
                Search(**{name: given[name]})  # whether it may be that, told where it stands
    with document.at(path):
        return Search(sampler=Sampler(sampler), steps=steps, values=values, **given)


def _steps(document: Document, path: Path, names: Any) -> tuple[str, ...]:
    if not isinstance(names, list):
        raise document.error(path, f"expected a list of steps, got {shown(names)}")
    for index, name in enumerate(names):
        if not isinstance(name, str) or name not in STEPS_BY_NAME:
            raise document.error((*path, index), unknown_key(str(name), STEPS_BY_NAME))
    return tuple(names)


def _values(document: Document, path: Path, steps: tuple[str, ...]) -> dict[str, Choice | Real]:
    found: dict[str, Choice | Real] = {}
    for name, value in document.mapping(path).items():
        step, _, parameter = name.partition(".")
        if step not in STEPS_BY_NAME:
            raise document.error((*path, name), unknown_key(step, STEPS_BY_NAME))
        if steps and step not in steps:
            raise document.error((*path, name), f"{step} is not among the search's steps")
        ranges = STEPS_BY_NAME[step].declares.ranges
        if parameter not in ranges:
            raise document.error((*path, name), unknown_key(parameter, ranges))
        found[name] = one = _range(document, (*path, name), value)
        for tried in one.values if isinstance(one, Choice) else (one.low, one.high):
            _require_fit(document, (*path, name), step, parameter, tried)
    return found


def _require_fit(document: Document, path: Path, step: str, parameter: str, value: Value) -> None:
    """Make sure that a step takes a value for a parameter; one of a part is `part.name`."""
    given: object = value
    for name in reversed(parameter.split(".")):
        given = {name: given}
    try:
        recipe_from_data([{step: given}], Document("", step))
    except InvalidDocument as error:
        raise document.error(path, f"cannot be {shown(value)}: {error}") from error


def _range(document: Document, path: Path, value: Any) -> Choice | Real:
    if isinstance(value, dict):
        entries = document.mapping(path, ("low", "high", "log"))
        missing = [key for key in ("low", "high") if key not in entries]
        if missing:
            raise document.error(path, f"a range needs {' and '.join(missing)}")
        low, high = (_number(document, (*path, key), entries[key]) for key in ("low", "high"))
        log = entries.get("log", False)
        if not isinstance(log, bool):
            raise document.error((*path, "log"), "expected true or false")
        if not low < high or (log and low <= 0):
            raise document.error(path, f"expected low below high, got {low:g} and {high:g}")
        return Real(low, high, log)
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(one, bool | int | float | str) for one in values):
        raise document.error(path, f"expected a list of values, got {shown(value)}")
    if not all(isfinite(one) for one in values if isinstance(one, float)):
        raise document.error(path, f"expected finite numbers, got {shown(value)}")
    return Choice(tuple(values))


def _plain(one: Choice | Real) -> list[Value] | dict[str, Value]:
    if isinstance(one, Choice):
        return list(one.values)
    return {"low": one.low, "high": one.high, "log": one.log}


def _whole(document: Document, path: Path, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise document.error(path, f"expected a whole number, got {shown(value)}")
    return value


def _number(document: Document, path: Path, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise document.error(path, f"expected a number, got {shown(value)}")
    return float(value)
