"""What was measured on one model, as a section of the page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from string import ascii_lowercase
from typing import Final

from benchmarks.gains.recipes import Row
from benchmarks.gains.records import Circumstances, Quantity, Record, current, unmeasured
from benchmarks.gains.wording import as_line, cell
from optimizers.contract.profile import Task

_HEADS: Final = (
    *("times faster", "times smaller"),
    "times less memory, held; at the peak",
)
_OF_CLASSES: Final = {"accuracy, points": Quantity.ACCURACY, "agreement": Quantity.AGREEMENT}
_OF_EMBEDDINGS: Final = {"cosine": Quantity.COSINE}
_LONGEST_VERDICT: Final = 160


def section(model: str, records: Sequence[Record], rows: Sequence[Row]) -> str:
    """One model's section, as Markdown.

    Args:
        model: Its name.
        records: What was measured of it; what is of no row is left out.
        rows: All rows there are of it, in their order.
    """
    records = current(records, rows)
    lines = [f"## {model}", ""]
    lines += [*_circumstances(records), ""] if records else []
    missing = [row.title for row in unmeasured(records, rows)]
    lines += [f"Not measured: {'; '.join(missing)}.", ""] if missing else []
    lines += [*_table(records), "", *_notes(records)] if records else []
    return "\n".join(lines).rstrip("\n") + "\n"


def _circumstances(records: Sequence[Record]) -> Iterator[str]:
    """What the model is, and under which circumstances its rows were measured."""
    runs = _runs(records)
    abouts = {run.about for run in runs}
    if len(abouts) == 1:
        yield f"{runs[0].about}."
        yield ""
    if len(runs) == 1:
        yield f"Measured on {_when_and_where(runs[0])}."
        return
    yield "Measured in several runs, each row beside its original in one of them:"
    yield ""
    for index, run in enumerate(runs):
        about = "" if len(abouts) == 1 else f" {run.about}."
        yield f"- {_letter(index)}: on {_when_and_where(run)}.{about}"


def _runs(records: Iterable[Record]) -> list[Circumstances]:
    """Every run, in the order of the rows."""
    found: list[Circumstances] = []
    for record in records:
        if record.circumstances not in found:
            found.append(record.circumstances)
    return found


def _letter(index: int) -> str:
    """Of a run: a to z, then aa to zz."""
    return ascii_lowercase[index % 26] * (1 + index // 26)


def _when_and_where(run: Circumstances) -> str:
    versions = ", ".join(f"{package} {version}" for package, version in run.versions.items())
    return f"{run.when}: {run.machine}; {versions}"


def _table(records: Sequence[Record]) -> Iterator[str]:
    runs = _runs(records)
    is_of_embeddings = records[0].task is Task.EMBEDDING
    fidelity = _OF_EMBEDDINGS if is_of_embeddings else _OF_CLASSES
    run_head = ("run",) if len(runs) > 1 else ()
    heads = ("recipe", *run_head, *_HEADS, *fidelity, "verdict")
    yield as_line(*heads)
    yield as_line(*("---",) * len(heads))
    for record in records:
        run = (_letter(runs.index(record.circumstances)),) if run_head else ()
        yield as_line(
            record.title,
            *run,
            _cell(record, Quantity.FASTER),
            _cell(record, Quantity.SMALLER),
            "; ".join(filter(None, (_cell(record, Quantity.HELD), _cell(record, Quantity.PEAK)))),
            *(_cell(record, quantity) for quantity in fidelity.values()),
            record.ending.split(";")[0][:_LONGEST_VERDICT],
        )


def _cell(record: Record, quantity: Quantity) -> str:
    return cell(quantity, record.figures.get(quantity))


def _notes(records: Iterable[Record]) -> Iterator[str]:
    for record in records:
        for done in record.steps:
            yield f"- {record.title}: {done.step}: {'; '.join(done.notes)}"
