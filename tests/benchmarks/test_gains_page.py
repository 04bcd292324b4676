"""The page of gains: what is measured again replaces its section, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

from benchmarks.gains.measure import Gain
from benchmarks.gains.recipes import ROWS
from benchmarks.gains.subject import Subject
from benchmarks.gains.table import page, section, sections_of
from optimizers.contract.profile import Task


def of(name: str, ending: str) -> str:
    subject = Subject(
        name=name, about="A model", task=Task.EMBEDDING, model=Path("model.onnx"), data={}
    )
    rows = ROWS["tutorial"][:2]
    gains = [Gain(row=row, manifest=None, ending=ending) for row in rows]
    return section(subject, gains, when="2026-01-02", machine="a machine", left_out=["merge"])


def test_a_section_is_replaced_and_the_others_stay() -> None:
    first = page({"b": of("b", "refused: x | y"), "a": of("a", "succeeded")})
    kept = sections_of(first)
    assert page(kept) == first
    again = page(kept | {"a": of("a", "failed")})
    assert again == first.replace("| succeeded |", "| failed |")
    assert again.count("| failed |") == 2
    assert again.index("## a") < again.index("## b")


def test_a_section_names_what_was_not_measured_and_escapes_its_cells() -> None:
    text = of("b", "refused: x | y")
    assert "Not measured in that run: merge." in text
    assert "| refused: x \\| y |" in text
