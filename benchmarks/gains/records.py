"""What was measured of each row, kept so that the page is written without measuring again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from benchmarks.gains.recipes import Row
from optimizers.contract.directory import write_atomically
from optimizers.contract.errors import InvalidData
from optimizers.contract.profile import Task


class Quantity(StrEnum):
    """What is told of a row; more is better, but for the last."""

    FASTER = "faster"
    SMALLER = "smaller"
    HELD = "less held"
    PEAK = "less at the peak"
    ACCURACY = "accuracy"
    AGREEMENT = "agreement"
    COSINE = "cosine"
    MEGABYTES = "megabytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gained:
    """One quantity of a variant beside its original.

    Attributes:
        value: Of the first four how many times better, of accuracy the change in points, of
            agreement per cent, of a cosine the mean, of megabytes (10^6 bytes) the variant's own.
        bound: The variant is no worse with 95 % confidence; None without a bound.
    """

    value: float
    bound: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What one step did, in its own words."""

    step: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """Of one run; rows that share them may be compared with each other.

    Attributes:
        when: The day.
        machine: What it ran on, for people.
        has_vnni: Whether its processor has instructions for products of integers.
        versions: Package → version.
        about: What the model is, with its data and the counts of items.
    """

    when: str
    machine: str
    has_vnni: bool
    versions: dict[str, str]
    about: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One row, measured beside its original in one run.

    Attributes:
        title: The row's.
        recipe: The row's, as written.
        optimize: The figure that was to become better.
        task: What the model's answers are.
        ending: The verdict, or why there is none.
        circumstances: When and where.
        figures: What was measured; empty where no variant was made.
        steps: What each step did; empty where no variant was made.
    """

    title: str
    recipe: str
    optimize: str
    task: Task
    ending: str
    circumstances: Circumstances
    figures: dict[Quantity, Gained] = field(default_factory=dict)
    steps: tuple[Done, ...] = ()

    @property
    def row(self) -> Row:
        """The row that was measured."""
        return Row(self.title, self.recipe, self.optimize)


_RECORD: Final = TypeAdapter(Record)


def read_records(directory: Path, model: str) -> tuple[Record, ...]:
    """All records of a model; none where there is no file.

    Raises:
        InvalidData: A line is no record; the text names it.
    """
    file = _file(directory, model)
    if not file.exists():
        return ()
    found = []
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        try:
            found.append(_RECORD.validate_json(line))
        except ValidationError as error:
            raise InvalidData(f"{file.name}:{number} is no record: {error}") from error
    return tuple(found)


def write_records(directory: Path, model: str, records: Iterable[Record]) -> None:
    """Replace a model's file: a line for each record."""
    directory.mkdir(parents=True, exist_ok=True)
    content = b"".join(_RECORD.dump_json(record) + b"\n" for record in records)
    write_atomically(_file(directory, model), content)


def current(records: Iterable[Record], rows: Sequence[Row]) -> tuple[Record, ...]:
    """The records of rows that there still are, in the rows' order.

    What was measured of another recipe, or for another aim, says nothing of a row, whatever its
    title. Of several records of one row the last counts.
    """
    measured = {record.row: record for record in records}
    return tuple(measured[row] for row in rows if row in measured)


def unmeasured(records: Iterable[Record], rows: Sequence[Row]) -> tuple[Row, ...]:
    """The rows without a record."""
    measured = {record.row for record in records}
    return tuple(row for row in rows if row not in measured)


def _file(directory: Path, model: str) -> Path:
    return directory / f"{model}.jsonl"
