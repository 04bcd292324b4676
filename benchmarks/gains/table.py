"""The gains as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.gains.measure import Gain
from benchmarks.gains.subject import Subject
from optimizers.contract.evaluation import Estimate, Figure
from optimizers.contract.goal import FigureName
from optimizers.contract.profile import Task
from optimizers.evaluation.memory import PEAK

_HEADS = (
    *("recipe", "times faster", "times smaller"),
    "times less memory, held; at the peak",
)
_OF_CLASSES = ("accuracy, points", "agreement")
_OF_EMBEDDINGS = ("cosine",)

_HOW_TO_READ = (
    "Every row is built and judged by the gates that decide what serves, beside its original in",
    "the same run. In brackets stands the bound that holds with 95 % confidence for a row by",
    "itself, not for the best of many. Accuracy is the change in points, with the largest loss in",
    "brackets; a cosine is the mean over documents. Nothing is required of fidelity, so that",
    "everything is measured: whether a loss is worth its gain is for the reader. A variant that is",
    "not better in its aim is refused.",
)


_SECTION = "\n## "


def page(sections: Mapping[str, str]) -> str:
    """The whole page, as Markdown: what is measured, and a section for each model."""
    beginning = "\n".join(("# Gains", "", "Written by `make gains`.", *_HOW_TO_READ)) + "\n"
    return beginning + "".join(sections[name] for name in sorted(sections))


def sections_of(text: str) -> dict[str, str]:
    """Name of a model → its section of a page, to keep what is not measured again."""
    return {
        part.partition("\n")[0]: _SECTION + part.rstrip("\n") + "\n"
        for part in text.split(_SECTION)[1:]
    }


def section(
    subject: Subject, gains: Sequence[Gain], *, when: str, machine: str, left_out: Sequence[str]
) -> str:
    """What was measured on one model, as Markdown.

    Args:
        subject: The model and its data.
        gains: Its rows.
        when: The day.
        machine: What it ran on, and with which packages.
        left_out: Titles of the rows that were not asked for.
    """
    lines = [
        f"{_SECTION}{subject.name}",
        "",
        f"{subject.about}.",
        "",
        f"Measured on {when}: {machine}.",
    ]
    if left_out:
        lines += ["", f"Not measured in that run: {'; '.join(left_out)}."]
    fidelity = _OF_EMBEDDINGS if subject.task is Task.EMBEDDING else _OF_CLASSES
    heads = (*_HEADS, *fidelity, "verdict")
    lines += ["", _line(heads), _line(("---",) * len(heads))]
    lines += [_line(_cells(gain, subject.task)) for gain in gains]
    lines += ["", *(f"- {note}" for gain in gains for note in _notes(gain))]
    return "\n".join(lines).rstrip("\n") + "\n"


def _cells(gain: Gain, task: Task) -> tuple[str, ...]:
    faster = _times(gain.figure(FigureName.LATENCY_P50))
    smaller = _times(gain.figure(FigureName.SIZE))
    held, peak = gain.figure(FigureName.MEMORY), gain.figure(FigureName.MEMORY, PEAK)
    memory = "; ".join(filter(None, map(_times, (held, peak))))
    ending = gain.ending.split(";")[0][:160]
    return (gain.row.title, faster, smaller, memory, *_fidelity(gain, task), ending)


def _fidelity(gain: Gain, task: Task) -> tuple[str, ...]:
    if task is Task.EMBEDDING:
        return (_cosine(gain.figure(FigureName.COSINE)),)
    return (
        _points(gain.figure(FigureName.ACCURACY)),
        _share(gain.figure(FigureName.AGREEMENT)),
    )


def _times(figure: Figure | None) -> str:
    if figure is None or figure.ratio is None or not figure.ratio.value:
        return ""
    bound = figure.ratio.upper
    return f"{1 / figure.ratio.value:.2f}" + (f" [{1 / bound:.2f}]" if bound else "")


def _points(figure: Figure | None) -> str:
    if figure is None or figure.difference is None:
        return ""
    change: Estimate = figure.difference
    worst = "" if change.lower is None else f" [{100 * change.lower:+.2f}]"
    return f"{100 * change.value:+.2f}{worst}"


def _share(figure: Figure | None) -> str:
    if figure is None:
        return ""
    least = "" if figure.value.lower is None else f" [{100 * figure.value.lower:.1f}]"
    return f"{100 * figure.value.value:.1f} %{least}"


def _cosine(figure: Figure | None) -> str:
    if figure is None:
        return ""
    least = "" if figure.value.lower is None else f" [{figure.value.lower:.4f}]"
    return f"{figure.value.value:.4f}{least}"


def _notes(gain: Gain) -> list[str]:
    records = () if gain.manifest is None else gain.manifest.records
    return [f"{gain.row.title}: {record.step}: {'; '.join(record.notes)}" for record in records]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
