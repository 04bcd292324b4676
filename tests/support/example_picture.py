"""Draws the picture of docs/search.md: `python -m tests.support.example_picture TARGET`."""

from __future__ import annotations

import sys
from pathlib import Path

from optimizers.report.picture import draw
from optimizers.report.plots import plots
from tests.support.explanations import example_explanation


def main() -> None:
    [plot, *_] = plots(example_explanation())
    Path(sys.argv[1]).write_bytes(draw(plot, "Example with made-up numbers"))


if __name__ == "__main__":
    main()
