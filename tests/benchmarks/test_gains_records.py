"""Records of gains: they say again what was measured, of the rows that there are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.gains.gained import gained
from benchmarks.gains.measure import NotMeasured, ending
from benchmarks.gains.recipes import ROWS, Row
from benchmarks.gains.records import (
    Gained,
    Quantity,
    current,
    read_records,
    unmeasured,
    write_records,
)
from optimizers.contract.directory import write_atomically
from optimizers.contract.errors import InvalidData
from optimizers.contract.evaluation import Estimate, Figure
from optimizers.contract.goal import FigureName
from optimizers.evaluation.memory import PEAK
from tests.support.gains import THERE, record

FIGURES = {Quantity.FASTER: Gained(value=1 / 3, bound=0.3), Quantity.HELD: Gained(value=2.0)}
FIRST = record("first | of them", FIGURES)
SECOND = record("second", ending="refused: ≥ ½ is not better", circumstances=THERE)
RESULTS = Path(__file__).parents[2] / "benchmarks/gains/results"


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert read_records(tmp_path / "new", "a") == ()
    write_records(tmp_path / "new", "a", [FIRST, SECOND])
    assert read_records(tmp_path / "new", "a") == (FIRST, SECOND)
    assert (tmp_path / "new" / "a.jsonl").read_bytes().count(b"\n") == 2
    assert read_records(tmp_path / "new", "b") == ()


@pytest.mark.parametrize(("old", "new"), [(b'"value":', b'"valve":'), (b"second", b"sec\nond")])
def test_a_damaged_record_is_an_error_that_names_its_line(
    tmp_path: Path, old: bytes, new: bytes
) -> None:
    write_records(tmp_path, "a", [SECOND, replace(SECOND, figures=FIGURES)])
    whole = (tmp_path / "a.jsonl").read_bytes()
    first, last = whole.splitlines()
    write_atomically(tmp_path / "a.jsonl", first + b"\n" + last.replace(old, new) + b"\n")
    with pytest.raises(InvalidData, match=r"a\.jsonl:2 is no record"):
        read_records(tmp_path, "a")


def test_a_row_that_is_measured_again_replaces_its_own_record() -> None:
    again = replace(FIRST, ending="failed: no disk", circumstances=THERE)
    rows = [SECOND.row, FIRST.row]
    assert current([FIRST, SECOND, again], rows) == (SECOND, again)


@pytest.mark.parametrize(
    "row",
    [
        FIRST.row._replace(recipe="[merge]"),
        FIRST.row._replace(optimize="size"),
        FIRST.row._replace(title="first"),
    ],
)
def test_what_was_measured_of_another_row_is_dropped(row: Row) -> None:
    rows = [row, SECOND.row]
    assert current([FIRST, SECOND], rows) == (SECOND,)
    assert unmeasured([FIRST, SECOND], rows) == (row,)


def test_every_record_in_the_repository_is_of_a_row() -> None:
    assert {file.stem for file in RESULTS.glob("*.jsonl")} <= set(ROWS)
    for model, rows in ROWS.items():
        records = read_records(RESULTS, model)
        assert current(records, rows) == records


SHARE = Estimate(value=0.75, lower=0.5, upper=0.9)


def figure(
    name: FigureName,
    condition: str = "",
    *,
    value: Estimate = SHARE,
    difference: Estimate | None = None,
    ratio: Estimate | None = None,
) -> Figure:
    return Figure(
        name=name,
        unit="",
        samples=9,
        value=value,
        difference=difference,
        ratio=ratio,
        condition=condition,
    )


def test_every_quantity_has_the_bound_that_speaks_against_the_variant() -> None:
    ratio = Estimate(value=0.5, lower=0.4, upper=0.8)
    loss = Estimate(value=-0.25, lower=-0.5, upper=0.1)
    bytes_ = Estimate(value=2e6, lower=2e6, upper=2e6)
    found = gained(
        [
            figure(FigureName.LATENCY_P50, ratio=ratio),
            figure(FigureName.LATENCY_P50, "batch 8", ratio=Estimate(value=0.1)),
            figure(FigureName.SIZE, value=bytes_, ratio=ratio),
            figure(FigureName.MEMORY, ratio=Estimate(value=0.25)),
            figure(FigureName.MEMORY, PEAK, ratio=Estimate(value=4.0, lower=1.0, upper=5.0)),
            figure(FigureName.ACCURACY, difference=loss),
            figure(FigureName.AGREEMENT),
            figure(FigureName.COSINE),
            figure(FigureName.SQNR),
        ]
    )
    assert found == {
        Quantity.FASTER: Gained(value=2.0, bound=1.25),
        Quantity.SMALLER: Gained(value=2.0, bound=1.25),
        Quantity.MEGABYTES: Gained(value=2.0, bound=2.0),
        Quantity.HELD: Gained(value=4.0),
        Quantity.PEAK: Gained(value=0.25, bound=0.2),
        Quantity.ACCURACY: Gained(value=-25.0, bound=-50.0),
        Quantity.AGREEMENT: Gained(value=75.0, bound=50.0),
        Quantity.COSINE: Gained(value=0.75, bound=0.5),
    }


@pytest.mark.parametrize(
    "verdict",
    ["succeeded", "succeeded: not judged", "refused: size; and more", "failed: x\nand\n y"],
)
def test_a_verdict_is_the_line_that_says_how_the_build_ended(verdict: str) -> None:
    said = f" 10% merge failed: it seems\nvariant abc lies in /refused\n{verdict}\n"
    assert ending(said, "a warning") == verdict.splitlines()[0]


@pytest.mark.parametrize(
    ("said", "complained", "why"),
    [
        ("awaiting_measurement: never quiet", "a warning", "awaiting_measurement: never quiet"),
        ("interrupted: died", "", "interrupted: died"),
        ("  5% fidelity", "Traceback\nKeyError: 'x'\n", "KeyError: 'x'"),
        ("", "", "it said nothing"),
    ],
)
def test_a_build_without_a_verdict_is_no_measurement(said: str, complained: str, why: str) -> None:
    with pytest.raises(NotMeasured, match=f"^{why}$"):
        ending(said, complained)
