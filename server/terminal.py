"""How models, variants, figures and jobs read on a terminal.

Print the tables with `markup=False`: what stands in them is other people's text.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

from rich.table import Table
from rich.text import Text

from server.pb import management_pb2 as pb

PAUSED: Final = "paused"
"""The stage of a job that stands still while live requests are late."""

_UNDER_WAY: Final = frozenset({"queued", "running"})
_SHARES: Final = frozenset({"accuracy", "agreement"})
_VERDICT_STYLES: Final = {"proved": "green", "refused": "red"}


def models_table(models: Iterable[pb.Model]) -> Table:
    """One line a version."""
    table = _table(
        "model", "version", "state", "answers", "serve", "provider", "lanes", "batch", "memory", ""
    )
    for model in models:
        if not model.versions:
            table.add_row(model.name, "-", "UNAVAILABLE", "", "", "", "", "", "", model.error)
        for line in model.versions:
            ready = line.state == "READY"
            table.add_row(
                model.name,
                f"{line.version}{'*' if line.is_default else ''}",
                line.state,
                line.active_variant,
                line.serve or "original",
                line.provider,
                _lanes(line) if ready else "",
                str(line.max_batch) if ready else "",
                quantity("B", line.memory_bytes) if ready else "",
                line.reason,
            )
    return table


def _lanes(line: pb.ModelVersion) -> str:
    """Runs at once x threads inside each; then, if that differs, of a caller who is alone."""
    shared = f"{line.lanes}x{line.threads}"
    return f"{shared} | 1x{line.wide_threads}" if line.wide_threads else shared


def variants_table(variants: Iterable[pb.Variant]) -> Table:
    """One line a variant."""
    table = _table("variant", "profile", "recipe", "verdict", "answers", "size", "why")
    for variant in variants:
        table.add_row(
            variant.id,
            variant.profile,
            variant.recipe,
            Text(variant.verdict, style=_VERDICT_STYLES.get(variant.verdict, "")),
            "yes" if variant.active else "",
            quantity("B", variant.size_bytes),
            "; ".join(variant.reasons) or variant.certificate_void,
        )
    return table


def jobs_table(jobs: Iterable[pb.Job]) -> Table:
    """One line a job."""
    table = _table("job", "model", "version", "profile", "state", "done", "variant", "why")
    for job in jobs:
        table.add_row(
            job.id,
            job.model,
            str(job.version),
            job.profile,
            standing(job),
            f"{job.fraction:.0%}",
            job.variant,
            job.reason or job.text,
        )
    return table


def events_table(events: Iterable[pb.Event]) -> Table:
    """One line an event."""
    table = _table("when", "model", "version", "event", "what")
    for event in events:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.unix_s))
        table.add_row(when, event.model, str(event.version or ""), event.kind, event.text)
    return table


def has_ended(job: pb.Job) -> bool:
    """Whether nothing more will happen to a job by itself."""
    return job.state not in _UNDER_WAY


def standing(job: pb.Job) -> str:
    """Where a job stands: its state, its place in the queue, or that it stands still."""
    if job.position:
        return f"{job.state} ({job.position})"
    return f"{job.state}, {job.stage}" if job.stage == PAUSED and not has_ended(job) else job.state


def job_line(job: pb.Job) -> str:
    """A job as one plain line."""
    what = job.reason or " ".join(part for part in (job.stage, job.text) if part)
    return f"{job.model}/{job.profile}: {job.state} {job.fraction:.0%} {what}".rstrip()


def figure_line(figure: pb.Figure) -> str:
    """A figure beside the original's, with its bounds, as one plain line."""
    unit = "%" if figure.name in _SHARES else figure.unit
    where = figure.condition.removeprefix("at ")
    name = f"{figure.name} at {where}" if where else figure.name
    text = f"{name} {quantity(unit, figure.value.value)}"
    if figure.HasField("original"):
        text += f", original {quantity(unit, figure.original.value)}"
    if figure.HasField("difference") and unit == "%":
        points = pb.Estimate(value=100 * figure.difference.value)
        for bound in ("lower", "upper"):
            if figure.difference.HasField(bound):
                setattr(points, bound, 100 * getattr(figure.difference, bound))
        text += f", difference {_interval(points)} points"
    elif figure.HasField("ratio"):
        text += f", ratio {_interval(figure.ratio)}"
    elif figure.value.HasField("lower"):
        text += f" (at least {quantity(unit, figure.value.lower)})"
    return f"{text}; {_counted(figure)}"


def _counted(figure: pb.Figure) -> str:
    """What it was computed from, as evaluations say it."""
    if figure.of_items:
        return f"{figure.samples} clusters of {figure.of_items} items"
    return f"{figure.samples} samples"


def short_figure(figure: pb.Figure) -> str:
    """A figure without its bounds, and what it is of the original's."""
    unit = "%" if figure.name in _SHARES else figure.unit
    ratio = f" (x{figure.ratio.value:.3g})" if figure.HasField("ratio") and unit != "%" else ""
    return f"{figure.name} {quantity(unit, figure.value.value)}{ratio}"


def quantity(unit: str, value: float) -> str:
    """A value with a unit that people read."""
    match unit:
        case "s":
            return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"
        case "B":
            return f"{value / 2**20:.1f} MiB" if value >= 2**20 else f"{value / 2**10:.1f} KiB"
        case "%":
            return f"{value:.2%}"
    return f"{value:,.4g} {unit}".rstrip()


def _interval(estimate: pb.Estimate) -> str:
    if not (estimate.HasField("lower") and estimate.HasField("upper")):
        return f"{estimate.value:.3g}"
    return f"{estimate.value:.3g} [{estimate.lower:.3g}, {estimate.upper:.3g}]"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
