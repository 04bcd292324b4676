"""Grow: wider layers and more of them, with the same answers at birth (Net2Net, arXiv 1511.05641).

Wider: W1' = W1[:, g], b1' = b1[g], W2'[j, :] = W2[g_j, :] / |{i : g_i = g_j}| for units g.
Deeper: relu(I relu(x)) = relu(x).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from optimizers.architecture.chains import pairs
from optimizers.architecture.deepen import deepen
from optimizers.architecture.proof import why_different
from optimizers.architecture.widen import widen
from optimizers.contract.architecture import Grow
from optimizers.graph import check_excluded
from optimizers.step import StepContext, StepResult
from optimizers.structure.editing import read_model, write_model

_TOLERANCE: Final = 1e-5


def apply(model: Path, step: Grow, context: StepContext) -> StepResult:
    """Widen, then deepen; see `optimizers.step`."""
    context.report(0.0, "growing")
    graph = read_model(model)
    names = [pair.first.name for pair in pairs(graph.graph)]
    check_excluded("grow", step.exclude, names)
    random = np.random.default_rng(context.seed)
    wide = [name for name in names if name not in step.exclude and step.wider > 1]
    done = [widen(graph, name, step, random) for name in wide]
    done += [f"put a layer after {name}" for name in deepen(graph, step.deeper)]
    left = [f"left alone as asked: {name}" for name in step.exclude]
    missing = step.deeper - (len(done) - len(wide))
    left += [f"no Relu for {missing} of {step.deeper} layers to come after"] if missing else []
    if not done:
        return context.unchanged(model, "no layer is followed by a Relu that fits", *left)
    target = write_model(graph, context.work_directory / "grown.onnx")
    context.report(0.8, "comparing")
    why = why_different(model, target, tolerance=_TOLERANCE, seed=context.seed)
    context.report(1.0, "compared")
    if why:
        return context.unchanged(model, f"left as it was: {why}")
    notes = (*done, *left)
    return StepResult(model=target, session=context.session, modified=True, notes=notes)
