"""The page: one table of verdicts, then what is behind it."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.rows import Part, Row, Table, behind, number, spread

_INTRODUCTION = """\
# Benchmarks

Written by `make bench` on {when}: {machine}; {versions}. It took {minutes:.0f} minutes.

Everything is measured in one run, contestants interleaved in rounds; a figure is the median of its
rounds and in brackets the smallest and the largest. Ratios, since machines differ. Load comes from
h2load (C), a closed loop on one connection that posts the same bytes to every server; a real client
checks the answers before and after each window. Client and server share the machine. Server CPU is
that of the whole process tree. Weights are random, shapes are real: tiny 64-64-10 perceptron, lenet
3x32x32, resnet18 3x224x224, minilm 6x384 over 128 tokens.

- noop: a bare handler that answers a fixed message and reads nothing
- runtime: onnxruntime behind the same bare handler
- hone: `hone serve`, as installed; the table is about the transport it prefers
- peers: {peers}

Others may have used the machine too: {steadiness}.

## Verdicts
"""


def render(
    parts: Sequence[Part],
    *,
    when: str,
    machine: str,
    versions: str,
    minutes: float,
    peers: str,
    steadiness: str,
) -> str:
    """The report as Markdown."""
    lines = [
        _INTRODUCTION.format(
            when=when,
            machine=machine,
            versions=versions,
            minutes=minutes,
            peers=peers,
            steadiness=steadiness,
        ),
        verdicts([row for part in parts for row in part.rows]),
    ]
    lines += [f"\n**Failed:** {failure}" for part in parts for failure in part.failures]
    for table in (table for part in parts for table in part.tables):
        lines += ["", f"## {table.title}", "", table.note, "", as_markdown(table)]
    return "\n".join(lines) + "\n"


def verdicts(rows: Sequence[Row]) -> str:
    """The table that the benchmarks are for."""
    return as_markdown(
        Table(
            title="",
            note="",
            heads=("figure", "measured", "at least", "aim", "holds?"),
            lines=[
                (
                    row.figure,
                    spread(row.values, row.unit) if row.values else row.note,
                    f"{row.sign} {number(row.least)}{behind(row.unit)}",
                    f"{row.sign} {number(row.aim)}{behind(row.unit)}",
                    {"aim": "yes, and the aim", "no": "**no**"}.get(row.verdict, row.verdict),
                )
                for row in rows
            ],
        )
    )


def as_markdown(table: Table) -> str:
    """Heads and lines."""
    lines = [table.heads, ["---"] * len(table.heads), *table.lines]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
