"""The gains as a page, from records and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from benchmarks.gains.recipes import Row
from benchmarks.gains.records import Record, current
from benchmarks.gains.standing import Verdict, standing
from benchmarks.gains.table import section
from benchmarks.gains.targets import Refusal, Target
from benchmarks.gains.wording import as_line

_BEGINNING: Final = """\
# Gains

Written by `make gains` from the records in `benchmarks/gains/results/`.
Every row is built and judged by the gates that decide what serves, beside its original in
the same run. In brackets stands the bound that holds with 95 % confidence for a row by
itself, not for the best of many. Accuracy is the change in points, with the largest loss in
brackets; a cosine is the mean over documents. Nothing is required of fidelity, so that
everything is measured: whether a loss is worth its gain is for the reader. A variant that is
not better in its aim is refused. Rows of one model may come from several runs, and where they
do each names its own: their gains may be compared, and their originals are not the same file
where another machine trained them.
"""

_TARGETS: Final = """\
## Targets

What the steps were meant to reach, and the row that stands best. A target is held where the bounds
hold it; the row was chosen among several, which its bounds do not account for.
"""
_WITH_VNNI: Final = """\
The targets were set for a processor without VNNI; {which} stands here was measured with it.
"""
_HEADS: Final = ("model", "target", "best row", "measured", "verdict")


def page(
    records: Mapping[str, Sequence[Record]],
    rows: Mapping[str, Sequence[Row]],
    targets: Sequence[Target | Refusal],
) -> str:
    """The whole page, as Markdown.

    Args:
        records: Model → what was measured of it.
        rows: Model → all rows there are of it, in their order.
        targets: What was to be reached.
    """
    found = {model: current(records.get(model, ()), rows[model]) for model in sorted(rows)}
    parts = [_BEGINNING, _targets(found, targets)]
    parts += [section(model, found[model], rows[model]) for model in found]
    return "\n".join(parts)


def _targets(found: Mapping[str, Sequence[Record]], targets: Sequence[Target | Refusal]) -> str:
    lines = [as_line(*_HEADS), as_line(*("---",) * len(_HEADS))]
    lines += [_line(target, found.get(target.model, ())) for target in targets]
    return "\n".join((_TARGETS + _about_vnni(found), *lines)) + "\n"


def _line(target: Target | Refusal, records: Sequence[Record]) -> str:
    one = standing(target, records)
    verdict = one.verdict if one.verdict is Verdict.HELD else f"**{one.verdict}**"
    verdict += f": {one.remarks}" if one.remarks else ""
    return as_line(one.model, one.text, one.row, one.measured, verdict)


def _about_vnni(found: Mapping[str, Sequence[Record]]) -> str:
    having = {record.circumstances.has_vnni for records in found.values() for record in records}
    if True not in having:
        return ""
    return "\n" + _WITH_VNNI.format(which="some of what" if False in having else "all that")
