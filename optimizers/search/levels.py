"""What is built of a recipe at a level."""

from __future__ import annotations

from dataclasses import replace

from optimizers.contract.distillation import Distill, Finetune
from optimizers.contract.pruning import Sparsify
from optimizers.contract.quantization import Binarize, QuantizeAware, Ternarize, WeightsNbits
from optimizers.contract.recipe import Recipe
from optimizers.contract.stage import Stage
from optimizers.contract.steps import Step
from optimizers.search.evaluator import Level


def at_level(recipe: Recipe, level: Level) -> Recipe:
    """The steps that are run for a level.

    At the level of structure nothing trains: steps that do nothing else are left out, and others
    do what they do untrained. At later levels steps train for their share of epochs, rounded, at
    least one; how the model is opened is not chosen again, since answers do not depend on it.
    """
    if level.is_structure:
        untrained = (_untrained(step) for step in recipe.steps)
        return Recipe(steps=tuple(step for step in untrained if step is not None))
    return Recipe(
        steps=tuple(
            _trained(step, level.training_share)
            for step in recipe.steps
            if step.stage is not Stage.SESSION
        )
    )


def _untrained(step: Step) -> Step | None:
    match step:
        case Finetune() | Sparsify():
            return None
        case Distill():
            return _trained(step, 0.0) if step.student else None
        case QuantizeAware():
            return step.int8
        case WeightsNbits() | Binarize() | Ternarize():
            return replace(step, training=None)
        case _:
            return step


def _trained(step: Step, share: float) -> Step:
    match step:
        case Finetune() | Sparsify() | Distill() | QuantizeAware():
            training = step.training
        case WeightsNbits() | Binarize() | Ternarize() if step.training is not None:
            training = step.training
        case _:
            return step
    epochs = max(1, round(share * training.epochs))
    return replace(step, training=replace(training, epochs=epochs))
