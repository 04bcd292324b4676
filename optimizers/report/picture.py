"""A plot as a PNG picture, drawn by matplotlib without a display."""

from __future__ import annotations

from io import BytesIO
from itertools import groupby
from typing import Final

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from optimizers.report.labels import Canvas
from optimizers.report.plots import Plot
from optimizers.report.styles import DASHES, STYLES

_INCHES: Final = (8.0, 5.6)
_DPI: Final = 150
WIDTH: Final = round(_INCHES[0] * _DPI)
HEIGHT: Final = round(_INCHES[1] * _DPI)
_AREA: Final = (0.105, 0.26, 0.875, 0.68)
"""Left, bottom, width and height of the plot, as shares of the picture."""
_TEXT: Final = 9
_INK: Final = "#222222"
_FRONT: Final = "#9A9A9A"
_MARK: Final = 42.0
_POINT: Final = 72.0
"""Points of an inch."""
_LONGEST_HEADING: Final = 90
_LONGEST_ENTRY: Final = 40


def draw(plot: Plot, heading: str) -> bytes:
    """Draw a plot.

    Args:
        plot: What is drawn.
        heading: What stands above it.

    Returns:
        A PNG of `WIDTH` by `HEIGHT` pixels.
    """
    figure = Figure(figsize=_INCHES, dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes(_AREA)
    _draw_frame(axes, plot, heading)
    _draw_lines(axes, plot)
    _draw_marks(axes, plot)
    _draw_labels(axes, plot)
    _draw_legend(figure, plot)
    content = BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def _draw_frame(axes: Axes, plot: Plot, heading: str) -> None:
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    for along, ticked, name in ((plot.x, axes.xaxis, "x"), (plot.y, axes.yaxis, "y")):
        ticked.set_ticks([along.fraction(value) for value, _ in along.ticks])
        ticked.set_ticklabels([text for _, text in along.ticks], fontsize=_TEXT)
        ticked.set_label_text(along.name, fontsize=_TEXT + 1, color=_INK)
        axes.grid(axis="x" if name == "x" else "y", color="#E4E4E4", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_title(
        _shown(heading, _LONGEST_HEADING),
        fontsize=_TEXT + 2,
        loc="left",
        color=_INK,
        parse_math=False,
    )


def _draw_lines(axes: Axes, plot: Plot) -> None:
    if plot.front:
        x, y = zip(*plot.front, strict=True)
        axes.plot(x, y, color=_FRONT, linewidth=2, zorder=2)
    for index, limit in enumerate(plot.limits):
        x, y = zip(*limit.line, strict=True)
        axes.plot(x, y, color=_INK, linewidth=1.0, dashes=_dashes(index), zorder=1.5)


def _draw_marks(axes: Axes, plot: Plot) -> None:
    for mark in plot.marks:
        x, y = mark.at
        if mark.across is not None:
            axes.plot(mark.across, (y, y), color=_INK, linewidth=0.8, zorder=2.5, clip_on=False)
        if mark.along is not None:
            axes.plot((x, x), mark.along, color=_INK, linewidth=0.8, zorder=2.5, clip_on=False)
    for kind, marks in groupby(plot.marks, key=lambda mark: mark.kind):
        style, places = STYLES[kind], [mark.at for mark in marks]
        axes.scatter(
            [place[0] for place in places],
            [place[1] for place in places],
            s=_MARK * style.size**2 if style.marker == "*" else _MARK * style.size,
            marker=style.marker,
            color=style.colour,
            edgecolors=_INK,
            linewidths=0.6,
            zorder=3,
            clip_on=False,
        )


def _draw_labels(axes: Axes, plot: Plot) -> None:
    canvas = Canvas(
        width=_AREA[2] * _INCHES[0] * _POINT,
        height=_AREA[3] * _INCHES[1] * _POINT,
        character=0.62 * _TEXT,
        line=1.15 * _TEXT,
        radius=5.5,
    )
    for label in plot.labels(canvas):
        axes.text(
            *label.at, label.text, fontsize=_TEXT, ha="center", va="center", color=_INK, zorder=4
        )


def _draw_legend(figure: Figure, plot: Plot) -> None:
    handles = [
        Line2D(
            [],
            [],
            linestyle="",
            marker=STYLES[kind].marker,
            markersize=6 * STYLES[kind].size ** 0.5,
            markerfacecolor=STYLES[kind].colour,
            markeredgecolor=_INK,
            markeredgewidth=0.6,
            label=kind.value,
        )
        for kind in plot.kinds
    ]
    if plot.front:
        handles.append(Line2D([], [], color=_FRONT, linewidth=2, label="front"))
    handles += [
        Line2D(
            [],
            [],
            color=_INK,
            linewidth=1.0,
            dashes=_dashes(index),
            label=_shown(limit.text, _LONGEST_ENTRY),
        )
        for index, limit in enumerate(plot.limits)
    ]
    legend = figure.legend(
        handles=handles,
        loc="lower center",
        ncols=3,
        fontsize=_TEXT,
        frameon=False,
        bbox_to_anchor=(0.53, 0.01),
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _dashes(index: int) -> tuple[int, ...]:
    return DASHES[index % len(DASHES)]


def _shown(text: str, longest: int) -> str:
    """A text with the letters that the picture's font has, and not too long."""
    short = text if len(text) <= longest else f"{text[: longest - 1]}…"
    return "".join(one if _is_drawn(one) else "?" for one in short)


def _is_drawn(letter: str) -> bool:
    return letter in "…→" or (letter.isprintable() and ord(letter) < 0x180)
