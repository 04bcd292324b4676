"""Writes the report of a search into its directory: `report.html` and `front.png`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from optimizers.contract.directory import write_atomically
from optimizers.contract.evaluation import Evaluation
from optimizers.contract.evidence import Evidence
from optimizers.contract.manifest import StepRecord
from optimizers.contract.study import FRONT_FILE, REPORT_FILE, Explanation


def write_report(
    directory: Path,
    explanation: Explanation,
    *,
    original: Path,
    variant: Path | None,
    evaluation: Evaluation | None,
    records: Sequence[StepRecord] = (),
    evidence_after: Evidence | None = None,
) -> None:
    """Write both files; the search need not have ended.

    Args:
        directory: Where they go; other files in it stay.
        explanation: What the search did so far.
        original: The model file as delivered.
        variant: The winner's model file, if it was built.
        evaluation: What the final gate found, if it has judged.
        records: What the winner's steps did.
        evidence_after: Where the winner's time goes, if that was looked at.
    """
    from optimizers.report.graphs import summarize
    from optimizers.report.page import render
    from optimizers.report.picture import draw
    from optimizers.report.plots import plots

    drawn = plots(explanation)
    page = render(
        explanation,
        drawn,
        before=summarize(original),
        after=None if variant is None else summarize(variant),
        evidence_after=evidence_after,
        evaluation=evaluation,
        records=records,
    )
    heading = f"{explanation.model}, profile {explanation.profile.name}: {drawn[0].title}"
    write_atomically(directory / REPORT_FILE, page.encode())
    write_atomically(directory / FRONT_FILE, draw(drawn[0], heading))
