"""The report as one HTML page that asks the network for nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from optimizers.contract import described
from optimizers.contract.amounts import byte_count, number, percent, time_span
from optimizers.contract.declaration import Choice, Range
from optimizers.contract.evaluation import Evaluation
from optimizers.contract.evidence import Evidence
from optimizers.contract.manifest import StepRecord
from optimizers.contract.study import Explanation
from optimizers.report.facts import facts
from optimizers.report.graphs import GraphSummary
from optimizers.report.headline import headline, progress_text
from optimizers.report.labels import Canvas
from optimizers.report.plots import Plot
from optimizers.report.rows import gate_table, trial_table
from optimizers.report.styles import DASHES, STYLES
from optimizers.search import wording

_HERE: Final = Path(__file__).parent
_CANVAS: Final = Canvas(width=340, height=236, character=6.3, line=12, radius=4.5)
_PURPOSES: Final = {
    "calibration": "ranges of activations and importances are measured on it",
    "train": "steps that train learn from it",
    "search": "trials are judged on it",
    "gate": "the winner alone is judged on it, once",
}


def render(
    explanation: Explanation,
    drawn: Sequence[Plot],
    *,
    before: GraphSummary,
    after: GraphSummary | None,
    evidence_after: Evidence | None,
    evaluation: Evaluation | None,
    records: Sequence[StepRecord],
) -> str:
    """The whole page; whatever others wrote is escaped.

    Args:
        explanation: What the search did so far.
        drawn: Its plots.
        before: The original's graph.
        after: The winner's.
        evidence_after: Where the winner's time goes.
        evaluation: What the final gate found.
        records: What the winner's steps did.
    """
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "amount_of_bytes": byte_count,
        "facts": facts,
        "number": number,
        "percent": percent,
        "duration": wording.duration,
        "recipe": described.recipe_text,
        "step": described.step_text,
        "purpose": described.purpose,
        "range": _range,
        "time_span": time_span,
        "time": _time,
    }
    style, script = (
        (_HERE / name).read_text(encoding="utf-8") for name in ("style.css", "sort.js")
    )
    columns, rows = trial_table(explanation)
    winner = None if explanation.winner is None else explanation.trial(explanation.winner)
    return environment.get_template("page.html.jinja").render(
        explanation=explanation,
        goal=explanation.profile.goal,
        search=explanation.profile.search,
        headline=headline(explanation, evaluation),
        progress=progress_text(explanation),
        winner=winner,
        records=records,
        plots=[(plot, plot.labels(_CANVAS)) for plot in drawn],
        canvas=_CANVAS,
        styles=STYLES,
        dashes=DASHES,
        columns=columns,
        rows=rows,
        before=before,
        after=after,
        operators=_operators(before, after),
        evidence_after=evidence_after,
        purposes=_PURPOSES,
        evaluation=evaluation,
        gate=() if evaluation is None else gate_table(evaluation.figures),
        style=Markup(style),
        script=Markup(script),
        style_digest=_digest(style),
        script_digest=_digest(script),
    )


def _operators(
    before: GraphSummary, after: GraphSummary | None
) -> list[tuple[str, int, int | None]]:
    """Operator, how many before, how many after; None where nothing came after."""
    names = dict.fromkeys([*before.operators, *(after.operators if after else ())])
    return [
        (name, before.operators.get(name, 0), after.operators.get(name, 0) if after else None)
        for name in names
    ]


def _range(allowed: Range) -> str:
    """What may be tried of a parameter."""
    if isinstance(allowed, Choice):
        return " or ".join(map(described.value_text, allowed.values))
    return f"{number(allowed.low)} to {number(allowed.high)}"


def _digest(text: str) -> str:
    """What a Content-Security-Policy allows an inline text by."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _time(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
