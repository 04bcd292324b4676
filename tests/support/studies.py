"""Studies over a space whose parameters depend on its steps, with made-up results."""

from __future__ import annotations

from math import log10

from optimizers.contract.architecture import Merge
from optimizers.contract.declaration import Choice, Real
from optimizers.contract.distillation import Distill
from optimizers.contract.pruning import PruneChannels
from optimizers.contract.quantization import StaticInt8
from optimizers.contract.recipe import Recipe
from optimizers.contract.search import Sampler
from optimizers.search.sampling import Sampling
from optimizers.search.space import Space
from tests.support.spaces import FAST_AND_TRUE, space_over

OFFSETS = {"l2": 0.0, "l1": 0.1, "activation": 0.3, "minmax": 0.2, "entropy": 0.0}


def conditional() -> Space:
    """Parameters of three steps count only where the step is in."""
    return space_over("merge", "prune_channels", "static_int8", "distill", goal=FAST_AND_TRUE)


def sampling(
    space: Space,
    sampler: Sampler = Sampler.TPE,
    *,
    objectives: int = 1,
    seed: int = 0,
    trials: int = 40,
    storage: str = "",
    study: str = "one",
) -> Sampling:
    return Sampling(
        space,
        study=study,
        sampler=sampler,
        objectives=objectives,
        seed=seed,
        trials=trials,
        storage=storage,
    )


def cost(recipe: Recipe) -> float:
    """Least with all steps in and each parameter at one of its values; made up."""
    found = 2.0
    for step in recipe.steps:
        if isinstance(step, PruneChannels):
            found += 8 * (step.ratio - 0.625) ** 2 + OFFSETS[step.importance] - 0.5
        elif isinstance(step, StaticInt8):
            found += OFFSETS.get(step.calibration, 0.3) - 0.2 * step.equalize - 0.3
        elif isinstance(step, Distill):
            training = step.training
            found += 0.5 * abs(log10(training.learning_rate / 2e-3)) - 0.05 * training.epochs
            found += {"adamw": 0.0, "sgd": 0.2}[training.optimizer] - 0.2
    return found


def spread(recipe: Recipe) -> tuple[float, float]:
    """Two aims that pull apart: what prunes and quantises more is faster and less true."""
    fast, true = 1.0, 0.0
    for step in recipe.steps:
        if isinstance(step, PruneChannels):
            fast *= 1 - 0.7 * step.ratio
            true += step.ratio**2 + OFFSETS[step.importance]
        elif isinstance(step, StaticInt8):
            fast *= 0.6
            true += OFFSETS.get(step.calibration, 0.3) + 0.2 - 0.1 * step.equalize
        elif isinstance(step, Distill):
            true = 0.5 * true + 0.1 * abs(log10(step.training.learning_rate / 2e-3))
        elif isinstance(step, Merge):
            fast *= 0.95
    return fast, true


SMALL: dict[str, Choice | Real] = {
    "prune_channels.ratio": Choice((0.25, 0.5)),
    "prune_channels.importance": Choice(("l2",)),
    "prune_channels.round_to": Choice((8,)),
}


def small() -> Space:
    """2 x 3 - 1 recipes."""
    return space_over("merge", "prune_channels", values=SMALL)
