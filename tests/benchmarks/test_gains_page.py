"""The page of gains: all that records say, and which rows have none."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.gains.page import page
from benchmarks.gains.recipes import ROWS
from benchmarks.gains.records import Circumstances, Gained, Quantity, Record, read_records
from benchmarks.gains.table import section
from benchmarks.gains.targets import TARGETS
from optimizers.contract.profile import Task
from tests.support.gains import HERE, THERE, record

HOME = Path(__file__).parents[2]
FIRST = record(
    "first",
    {
        Quantity.FASTER: Gained(value=3.556, bound=3.531),
        Quantity.SMALLER: Gained(value=4.0, bound=4.0),
        Quantity.HELD: Gained(value=2.13),
        Quantity.PEAK: Gained(value=2.0, bound=1.9),
        Quantity.ACCURACY: Gained(value=0.2, bound=-0.4),
        Quantity.AGREEMENT: Gained(value=97.26, bound=96.94),
    },
)
SECOND = record("second", ending="refused: x | y; and more")
ROWS_OF_TWO = (FIRST.row, SECOND.row)


def test_a_row_shows_what_its_record_says() -> None:
    lines = section("a", [SECOND, FIRST], ROWS_OF_TWO).splitlines()
    assert lines[:3] == ["## a", "", "A model."]
    assert lines[4] == "Measured on 2026-01-02: a machine, with VNNI; onnxruntime 1.2, numpy 3.4."
    assert lines[8:12] == [
        "| first | 3.56 [3.53] | 4.00 [4.00] | 2.13; 2.00 [1.90] | +0.20 [-0.40] | 97.3 % [96.9] "
        "| succeeded |",
        "| second |  |  |  |  |  | refused: x \\| y |",
        "",
        "- first: merge: one; two",
    ]


def test_embeddings_have_a_cosine_in_place_of_classes() -> None:
    figures = {Quantity.COSINE: Gained(value=0.99184, bound=0.98961)}
    one = record("first", figures, task=Task.EMBEDDING)
    lines = section("a", [one], [one.row]).splitlines()
    assert lines[6].split(" | ")[-2:] == ["cosine", "verdict |"]
    assert lines[8] == "| first |  |  |  | 0.9918 [0.9896] | succeeded |"


def test_rows_of_several_runs_name_theirs() -> None:
    lines = section("a", [replace(FIRST, circumstances=THERE), SECOND], ROWS_OF_TWO).splitlines()
    assert lines[2] == "A model."
    assert lines[6:8] == [
        "- a: on 2026-01-02: another machine, without VNNI; onnxruntime 1.2, numpy 3.4.",
        "- b: on 2026-01-02: a machine, with VNNI; onnxruntime 1.2, numpy 3.4.",
    ]
    assert lines[9].startswith("| recipe | run | times faster |")
    assert [line[:15] for line in lines[11:13]] == ["| first | a | 3", "| second | b | "]


def test_runs_with_other_data_say_so() -> None:
    fewer = replace(HERE, about="A model, less data")
    lines = section("a", [replace(FIRST, circumstances=fewer), SECOND], ROWS_OF_TWO).splitlines()
    assert lines[2].startswith("Measured in several runs")
    assert lines[4].endswith("numpy 3.4. A model, less data.")
    assert lines[5].endswith("numpy 3.4. A model.")


def test_rows_without_a_record_are_named() -> None:
    assert "\nNot measured: first; second.\n" in section("a", [], ROWS_OF_TWO)
    assert "\nNot measured: second.\n" in section("a", [FIRST], ROWS_OF_TWO)
    assert "Not measured" not in section("a", [FIRST, SECOND], ROWS_OF_TWO)


def test_a_record_of_another_recipe_is_not_shown() -> None:
    rows = (FIRST.row._replace(recipe="[merge]"), SECOND.row)
    text = section("a", [FIRST, SECOND], rows)
    assert "| first |" not in text
    assert "Not measured: first." in text


@pytest.mark.parametrize(
    ("machines", "says"),
    [((HERE, HERE), "all that stands"), ((HERE, THERE), "some of what"), ((THERE, THERE), "")],
)
def test_the_page_says_how_much_was_measured_on_another_kind_of_processor(
    machines: tuple[Circumstances, Circumstances], says: str
) -> None:
    records = [
        replace(one, circumstances=machine)
        for one, machine in zip((FIRST, SECOND), machines, strict=True)
    ]
    text = page({"a": records}, {"a": ROWS_OF_TWO}, ())
    assert ("without VNNI; " + says in text) if says else "set for a processor" not in text


def test_models_stand_in_order_and_a_model_that_is_not_measured_has_its_section() -> None:
    text = page({"b": [FIRST]}, {"b": ROWS_OF_TWO, "a": ROWS_OF_TWO}, ())
    assert text.index("## Targets") < text.index("## a\n\nNot measured") < text.index("## b")
    assert text.endswith("\n")
    assert not text.endswith("\n\n")


RESULTS = HOME / "benchmarks/gains/results"


def repository() -> Mapping[str, tuple[Record, ...]]:
    return {name: read_records(RESULTS, name) for name in ROWS}


def test_the_page_in_the_repository_is_that_of_its_records() -> None:
    written = (HOME / "docs/gains.md").read_text(encoding="utf-8")
    assert written == page(repository(), ROWS, TARGETS)


def test_the_page_tells_when_a_record_is_changed() -> None:
    """The planted fault that the test above is there for."""
    records = dict(repository())
    first = records["resnet8"][0]
    figures = first.figures | {Quantity.FASTER: Gained(value=99.0, bound=98.0)}
    records["resnet8"] = (replace(first, figures=figures), *records["resnet8"][1:])
    written = (HOME / "docs/gains.md").read_text(encoding="utf-8")
    assert written != page(records, ROWS, TARGETS)


def test_the_page_is_written_again_without_data_and_without_measuring(tmp_path: Path) -> None:
    results, output = tmp_path / "results", tmp_path / "gains.md"
    shutil.copytree(RESULTS, results)
    (results / "resnet8.jsonl").unlink()
    options = ["--render", "--results", results, "--output", output, "--work", tmp_path / "work"]
    subprocess.run(
        [sys.executable, "-m", "benchmarks.gains", *map(str, options)],
        cwd=HOME,
        check=True,
        capture_output=True,
    )
    left = {name: records for name, records in repository().items() if name != "resnet8"}
    assert output.read_text(encoding="utf-8") == page(left, ROWS, TARGETS)
    assert not (tmp_path / "work").exists()
