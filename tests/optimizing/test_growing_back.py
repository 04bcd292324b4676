"""A net that was cut too far for its goal reaches it once it is grown, on real digits."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from optimizers.contract.architecture import Grow
from optimizers.contract.distillation import Distill
from optimizers.contract.evaluation import Check, Gate
from optimizers.contract.goal import parse_requirement
from optimizers.contract.pruning import PruneChannels
from optimizers.contract.runtime import Session, SessionSpec
from optimizers.contract.steps import Step
from optimizers.contract.training import Training
from optimizers.demo.data import Dataset, SplitSizes, load_splits
from optimizers.demo.networks import flat_input
from optimizers.evaluation.task import accuracy_figure
from optimizers.evaluation.verdict import check_requirement
from optimizers.step import StepContext
from optimizers.techniques import apply_step
from tests.support.digits import train_original, training_context

CUT = PruneChannels(ratio=0.95, round_to=0, sensitivity=False)
DISTIL = Distill(training=Training(epochs=12, batch_size=32, learning_rate=3e-3))
GOAL = parse_requirement("accuracy <= 4 points worse")
ALPHA = 0.05


def built(context: StepContext, name: str, *steps: Step) -> Path:
    """What a recipe makes of the original."""
    model = context.original
    for index, step in enumerate(steps):
        work = context.work_directory / f"{name}{index}"
        work.mkdir()
        result = apply_step(model, step, replace(context, work_directory=work))
        assert result.modified, result.notes
        model = result.model
    return model


def right(model: Path) -> NDArray[np.bool_]:
    """Which of the gate's digits a model reads right: 2244 that nothing was trained on."""
    gate = load_splits(Dataset.MNIST_5K, SplitSizes(train=1500, search=1000), seed=0).gate
    with closing(Session(model, SessionSpec())) as session:
        found = session.run({"x": flat_input(gate)})[0].argmax(axis=1) == gate.labels
    return np.asarray(found)


def judged(original: Path, variant: Path) -> Check:
    """Whether a variant's loss of accuracy keeps the goal by its bound."""
    figure = accuracy_figure(right(original), right(variant), ALPHA)
    return check_requirement(GOAL, figure, Gate.ACCURACY, ALPHA)


def test_growing_wins_back_what_the_goal_needed(tmp_path: Path) -> None:
    """The original has 96 hidden units, the cut leaves 5, growing makes 30 of them."""
    context = training_context(tmp_path)
    train_original(context)
    cut = judged(context.original, built(context, "cut", CUT, DISTIL))
    assert cut.passed is False, cut.text
    grow = Grow(wider=6, noise=0.5)
    variant = built(context, "grown", CUT, grow, DISTIL)
    grown = judged(context.original, variant)
    assert grown.passed is True, grown.text
    assert variant.stat().st_size < 0.4 * context.original.stat().st_size
    untaught = judged(context.original, built(context, "untaught", CUT, grow))
    assert untaught.passed is False, "growing alone changes no answer"
