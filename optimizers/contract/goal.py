"""The grammar of goals: what to optimise and what must hold.

A requirement reads `FIGURE [under KIND AMOUNT] OP NUMBER UNIT [better|worse]`:

    latency_p50 <= 2 ms             the figure itself
    latency_p50 >= 1 ms better      a gain over the original
    latency_p50 >= 30 % better      a gain relative to the original
    accuracy <= 1 point worse       a loss against the original
    throughput <= 2 % worse         a loss relative to the original
    agreement under noise 0.05 >= 0.95   the figure on perturbed items (`perturbation`)
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from optimizers.contract.duration import TIME_UNITS
from optimizers.contract.errors import InvalidDocument
from optimizers.contract.perturbation import Perturbation, perturbation


class FigureName(StrEnum):
    """The quantities that a goal may name."""

    LATENCY_P50 = "latency_p50"
    LATENCY_P99 = "latency_p99"
    THROUGHPUT = "throughput"
    MEMORY = "memory"
    SIZE = "size"
    ACCURACY = "accuracy"
    AGREEMENT = "agreement"
    COSINE = "cosine"
    SQNR = "sqnr"
    COST = "cost"


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureKind:
    """How a figure is counted.

    Attributes:
        unit: The unit in which it is measured and stored.
        lower_is_better: Its direction.
        units: Every unit that may be written, with its size in `unit`.
        compares: Whether the figure already compares with the original (agreement, cosine,
            sqnr), so that `better` and `worse` make no sense for it.
    """

    unit: str
    lower_is_better: bool
    units: dict[str, float]
    compares: bool = False


_BYTES = {
    "B": 1.0,
    "kB": 1e3,
    "MB": 1e6,
    "GB": 1e9,
    "KiB": 2.0**10,
    "MiB": 2.0**20,
    "GiB": 2.0**30,
}
_SHARE = {"": 1.0, "point": 0.01, "points": 0.01, "%": 0.01}

FIGURES: Final[dict[FigureName, FigureKind]] = {
    FigureName.LATENCY_P50: FigureKind(unit="s", lower_is_better=True, units=TIME_UNITS),
    FigureName.LATENCY_P99: FigureKind(unit="s", lower_is_better=True, units=TIME_UNITS),
    FigureName.THROUGHPUT: FigureKind(
        unit="items/s", lower_is_better=False, units={"items/s": 1.0, "/s": 1.0, "": 1.0}
    ),
    FigureName.MEMORY: FigureKind(unit="B", lower_is_better=True, units=_BYTES),
    FigureName.SIZE: FigureKind(unit="B", lower_is_better=True, units=_BYTES),
    FigureName.ACCURACY: FigureKind(unit="", lower_is_better=False, units=_SHARE),
    FigureName.AGREEMENT: FigureKind(unit="", lower_is_better=False, units=_SHARE, compares=True),
    FigureName.COSINE: FigureKind(unit="", lower_is_better=False, units={"": 1.0}, compares=True),
    FigureName.SQNR: FigureKind(unit="dB", lower_is_better=False, units={"dB": 1.0}, compares=True),
    FigureName.COST: FigureKind(
        unit="/1000",
        lower_is_better=True,
        units={"/1000": 1.0, "": 1.0},
    ),
}


_OF_ANSWERS: Final = (
    *(FigureName.ACCURACY, FigureName.AGREEMENT, FigureName.COSINE, FigureName.SQNR),
)


class Relation(StrEnum):
    """What a requirement compares; the five kinds of the grammar."""

    ABSOLUTE = "absolute"
    GAIN = "gain"
    RELATIVE_GAIN = "relative gain"
    LOSS = "loss"
    RELATIVE_LOSS = "relative loss"


_LONGEST: Final = 200
_PATTERN = re.compile(
    r"""^\s*(?P<figure>[A-Za-z_0-9]+)
    (?:\s+under\s+(?P<kind>[A-Za-z_]+)\s+(?P<amount>[-+]?\d+(?:\.\d+)?))?\s*(?P<op><=|>=)\s*
    (?P<number>[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)\s*
    (?P<unit>[^\s\d]\S*)??\s*(?P<word>better|worse)?\s*$""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """One sentence of the grammar, parsed.

    Attributes:
        text: The sentence as written.
        figure: What it is about.
        relation: Which of the five kinds it is.
        limit: The number in the figure's own unit; a share in [0, ...) for relative kinds;
            a gain or loss is counted in the figure's direction and is never negative.
        under: What is done to the gate's items first; None for items as they are.
    """

    text: str
    figure: FigureName
    relation: Relation
    limit: float
    under: Perturbation | None = None


def parse_requirement(text: str) -> Requirement:
    """Read one requirement.

    Raises:
        InvalidDocument: The sentence is not of the grammar, or makes no sense for its figure.
    """
    match = _PATTERN.match(text) if len(text) <= _LONGEST else None
    if match is None:
        raise InvalidDocument(
            f"requirement '{text[:_LONGEST]}' was not understood; expected FIGURE [under KIND "
            "AMOUNT] OP NUMBER UNIT [better|worse], for example 'latency_p50 <= 2 ms', 'accuracy "
            "<= 1 point worse' or 'agreement under noise 0.05 >= 0.95'"
        )
    figure = parse_figure(match["figure"])
    under = _under(text, figure, match["kind"], match["amount"])
    kind = FIGURES[figure]
    unit, word, number = match["unit"] or "", match["word"], float(match["number"])
    if not math.isfinite(number):
        raise InvalidDocument(f"requirement '{text}': {match['number']} is too large a number")
    if word is None:
        wanted = "<=" if kind.lower_is_better else ">="
        if match["op"] != wanted:
            direction = "lower" if kind.lower_is_better else "higher"
            raise InvalidDocument(
                f"requirement '{text}' asks for the wrong direction: {direction} {figure} is "
                f"better, so write '{figure} {wanted} ...'"
            )
        limit = number * _unit_size(text, figure, unit)
        return Requirement(
            text=text, figure=figure, relation=Relation.ABSOLUTE, limit=limit, under=under
        )
    if kind.compares:
        raise InvalidDocument(
            f"requirement '{text}': {figure} already compares with the original, so leave out "
            f"'{word}', for example '{figure} >= 0.97'"
        )
    if number < 0:
        raise InvalidDocument(f"requirement '{text}': a gain or loss must not be negative")
    wanted = ">=" if word == "better" else "<="
    if match["op"] != wanted:
        raise InvalidDocument(
            f"requirement '{text}' would be met by any failure; write '{wanted} ... {word}'"
        )
    if unit == "%":
        relation = Relation.RELATIVE_GAIN if word == "better" else Relation.RELATIVE_LOSS
        return Requirement(
            text=text, figure=figure, relation=relation, limit=number / 100, under=under
        )
    relation = Relation.GAIN if word == "better" else Relation.LOSS
    limit = number * _unit_size(text, figure, unit)
    return Requirement(text=text, figure=figure, relation=relation, limit=limit, under=under)


def _under(
    text: str, figure: FigureName, kind: str | None, amount: str | None
) -> Perturbation | None:
    if kind is None or amount is None:
        return None
    if figure not in _OF_ANSWERS:
        raise InvalidDocument(
            f"requirement '{text}': {figure} does not depend on what the items hold; only "
            f"{', '.join(_OF_ANSWERS)} are judged under something"
        )
    return perturbation(kind, float(amount))


def parse_figure(name: str) -> FigureName:
    """Find a figure by name.

    Raises:
        InvalidDocument: There is none; the text names the nearest.
    """
    try:
        return FigureName(name)
    except ValueError:
        near = difflib.get_close_matches(name, list(FigureName), n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise InvalidDocument(
            f"unknown figure '{name}'{hint} Expected one of {', '.join(FigureName)}"
        ) from None


def _unit_size(text: str, figure: FigureName, unit: str) -> float:
    units = FIGURES[figure].units
    if unit not in units:
        expected = ", ".join(f"'{name}'" if name else "no unit" for name in units)
        raise InvalidDocument(
            f"requirement '{text}': {figure} has no unit '{unit}'; expected one of {expected}"
        )
    return units[unit]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What a profile is after.

    Attributes:
        optimize: Figures to improve; the first decides whether a variant is better.
        require: What must hold, all of it jointly at `confidence`.
        stop_when: What is good enough: a search ends once a trial meets all of it. Beside a
            recipe it has no effect.
        confidence: Probability, in [0.5, 1), with which all stated bounds hold together.
    """

    optimize: tuple[FigureName, ...] = (FigureName.LATENCY_P50,)
    require: tuple[Requirement, ...] = field(default=())
    stop_when: tuple[Requirement, ...] = field(default=())
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if not self.optimize:
            raise InvalidDocument("goal.optimize must name at least one figure")
        if not 0.5 <= self.confidence < 1:
            raise InvalidDocument(f"goal.confidence must be in [0.5, 1), got {self.confidence}")

    @property
    def figures(self) -> tuple[FigureName, ...]:
        """Every figure the verdict depends on, each once."""
        named = [*self.optimize, *(requirement.figure for requirement in self.require)]
        return tuple(dict.fromkeys(named))
