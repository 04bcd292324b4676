"""Targets of gains: held where bounds hold them, and nowhere else."""

from __future__ import annotations

import pytest

from benchmarks.gains.recipes import ROWS
from benchmarks.gains.records import Gained, Quantity, Record
from benchmarks.gains.standing import Verdict, standing
from benchmarks.gains.targets import TARGETS, Demand, Refusal, Target
from tests.support.gains import THERE, record

TARGET = Target(
    model="a",
    demands=(
        Demand(quantity=Quantity.FASTER, limit=2.0),
        Demand(quantity=Quantity.ACCURACY, limit=-1.5, aim=-1.0),
    ),
    why="nobody knows",
)
Values = tuple[float, float | None]


def row(title: str, faster: Values, accuracy: Values) -> Record:
    figures = {Quantity.FASTER: faster, Quantity.ACCURACY: accuracy}
    return record(
        title, {name: Gained(value=one, bound=bound) for name, (one, bound) in figures.items()}
    )


@pytest.mark.parametrize(
    ("faster", "accuracy", "verdict", "remarks"),
    [
        ((2.5, 2.0), (0.1, -0.9), Verdict.HELD, "the aim as well"),
        (
            (2.5, 2.0),
            (-0.9, -1.5),
            Verdict.HELD,
            "the aim by its estimate only, the bound's -1.50 points of accuracy misses -1.00 by "
            "0.50",
        ),
        (
            (2.5, 2.0),
            (-1.2, -1.4),
            Verdict.HELD,
            "not the aim, -1.20 points of accuracy misses -1.00 by 0.20",
        ),
        (
            (2.5, 2.4),
            (-0.9, -1.6),
            Verdict.BY_ESTIMATE,
            "the bound's -1.60 points of accuracy misses -1.50 by 0.10; nobody knows",
        ),
        (
            (2.5, 1.9),
            (0.0, -0.9),
            Verdict.BY_ESTIMATE,
            "the bound's 1.90 times faster misses 2.00 by 0.10; nobody knows",
        ),
        (
            (2.5, None),
            (0.0, -0.9),
            Verdict.BY_ESTIMATE,
            "2.50 times faster has no bound; nobody knows",
        ),
        (
            (1.9, 1.8),
            (0.0, -0.9),
            Verdict.MISSED,
            "1.90 times faster misses 2.00 by 0.10; nobody knows",
        ),
    ],
)
def test_a_target_is_held_where_the_bounds_hold_it(
    faster: Values, accuracy: Values, verdict: Verdict, remarks: str
) -> None:
    found = standing(TARGET, [row("one", faster, accuracy)])
    assert (found.verdict, found.remarks) == (verdict, remarks)
    assert found.row == "one"


def test_what_was_measured_is_said_with_its_bounds() -> None:
    found = standing(TARGET, [row("one", (2.5, 2.25), (0.1, -0.9))])
    assert found.measured == "2.50 [2.25] times faster, +0.10 [-0.90] points of accuracy"
    assert found.text == "≥ 2 times faster, ≤ 1.5 points of accuracy lost (aim: 1)"


PROVED = row("proved", (2.2, 2.1), (-0.1, -1.4))
PROVED_MORE = row("proved more", (2.4, 2.2), (-0.1, -1.4))
BY_ESTIMATE = row("by estimate", (9.0, 1.0), (-0.1, -1.6))
FAST = row("fast", (9.0, 8.9), (-3.0, -4.0))


@pytest.mark.parametrize(
    ("records", "best"),
    [
        ((FAST, BY_ESTIMATE, PROVED, PROVED_MORE), "proved more"),
        ((PROVED_MORE, FAST, PROVED, BY_ESTIMATE), "proved more"),
        ((FAST, BY_ESTIMATE), "by estimate"),
        ((FAST, record("of nothing")), "fast"),
    ],
)
def test_the_row_that_stands_best_is_told(records: tuple[Record, ...], best: str) -> None:
    assert standing(TARGET, records).row == best


def test_only_rows_that_are_meant_are_told() -> None:
    target = Target(model="a", demands=TARGET.demands, titles=("estimate", "fast"), meant="these")
    assert standing(target, [PROVED, BY_ESTIMATE]).row == "by estimate"
    assert standing(target, [PROVED]).verdict is Verdict.NOT_MEASURED
    assert target.text.startswith("these: ≥ 2 times faster")


@pytest.mark.parametrize("records", [(), (record("one"),)])
def test_nothing_measured_is_neither_held_nor_missed(records: tuple[Record, ...]) -> None:
    found = standing(TARGET, records)
    assert (found.verdict, found.row, found.measured) == (Verdict.NOT_MEASURED, "", "")


@pytest.mark.parametrize(
    ("size", "verdict"), [(15.9, Verdict.HELD), (16.0, Verdict.HELD), (16.1, Verdict.MISSED)]
)
def test_of_megabytes_fewer_are_better(size: float, verdict: Verdict) -> None:
    target = Target(model="a", demands=(Demand(quantity=Quantity.MEGABYTES, limit=16.0),))
    sizes = {
        title: {Quantity.MEGABYTES: Gained(value=one, bound=one)}
        for title, one in (("small", size), ("large", 90.0))
    }
    found = standing(target, [record(title, figures) for title, figures in sizes.items()])
    assert (found.row, found.verdict) == ("small", verdict)
    assert target.text == "≤ 16 MB"


def test_a_refusal_is_told_with_its_reason_and_what_passes_with_the_kind_of_processor() -> None:
    target = Refusal(model="a", title="static int8", why="it was quick")
    other = record("static int8, corrected", ending="refused: other")
    refused = record("static int8", ending="refused: 2 ms against 1 ms; and more")
    found = standing(target, [other, refused])
    assert (found.verdict, found.remarks) == (Verdict.HELD, "2 ms against 1 ms")
    for circumstances, vnni in ((refused.circumstances, "with"), (THERE, "without")):
        faster = {Quantity.FASTER: Gained(value=1.7, bound=1.6)}
        found = standing(target, [record("static int8", faster, circumstances=circumstances)])
        assert found.verdict is Verdict.NOT_REFUSED
        assert found.remarks == f"{vnni} VNNI it was quick"
        assert found.measured == "1.70 [1.60] times faster"
    failed = record("static int8", ending="failed: no disk")
    for records in ([other], [failed]):
        assert standing(target, records).verdict is Verdict.NOT_MEASURED


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_means_rows_that_there_are(target: Target | Refusal) -> None:
    titles = [one.title for one in ROWS[target.model]]
    if isinstance(target, Refusal):
        assert target.title in titles
    else:
        assert all(any(text in title for title in titles) for text in target.titles)
        assert target.demands
