"""A sweep of a few recipes whose figures come from functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from benchmarks.search.sweep import PASSES, Piece, Sweep, beginnings
from optimizers.contract.declaration import Choice, Real
from optimizers.contract.evaluation import Figure
from optimizers.contract.goal import FigureName, Goal, parse_requirement
from optimizers.contract.profile import Profile
from optimizers.contract.pruning import PruneChannels
from optimizers.contract.quantization import StaticInt8
from optimizers.contract.recipe import Recipe
from optimizers.contract.search import Search
from tests.support.replays import agreement, exact
from tests.support.spaces import evidence

GOAL = Goal(
    optimize=(FigureName.LATENCY_P50, FigureName.SIZE),
    require=(parse_requirement("agreement >= 0.9"),),
)
STEPS = ("merge", "prune_channels", "distill", "static_int8")
VALUES: dict[str, Choice | Real] = {
    "prune_channels.ratio": Choice((0.25, 0.375, 0.5)),
    "prune_channels.importance": Choice(("l2",)),
    "prune_channels.round_to": Choice((8,)),
    "distill.temperature": Choice((4.0,)),
    "distill.weight": Choice((0.5,)),
    "distill.training.learning_rate": Choice((0.001,)),
    "distill.training.batch_size": Choice((64,)),
    "distill.training.optimizer": Choice(("adamw",)),
    "distill.training.schedule": Choice(("one_cycle",)),
    "distill.training.epochs": Choice((9,)),
    "static_int8.calibration": Choice(("minmax",)),
    "static_int8.skip_first": Choice((False,)),
    "static_int8.equalize": Choice((False,)),
    "static_int8.correct_bias": Choice((False,)),
}
BUILDING_S, LOOKING_S, MEASURING_S = 10.0, 1.0, 2.0
"""What a step takes, what finding it takes, and what measuring takes."""


def speed(recipe: Recipe) -> float:
    """Latency as a share of the original's: what is pruned is saved, and half by int8."""
    share = 0.98
    for step in recipe.steps:
        if isinstance(step, PruneChannels):
            share *= 1 - step.ratio
        elif isinstance(step, StaticInt8):
            share *= 0.5
    return share


def truth(recipe: Recipe) -> float:
    """Agreement: what is pruned must be distilled."""
    names = {type(step).__name__ for step in recipe.steps}
    return 0.8 if "PruneChannels" in names and "Distill" not in names else 0.95


def sweep_of(
    fast: Callable[[Recipe], float] = speed,
    true: Callable[[Recipe], float] = truth,
    *,
    steps: tuple[str, ...] = STEPS,
    values: dict[str, Choice | Real] | None = None,
) -> Sweep:
    """A complete sweep; size is the square of the latency."""
    profile = Profile(
        name="sweep",
        goal=GOAL,
        search=Search(
            steps=steps,
            values={
                name: one
                for name, one in {**VALUES, **(values or {})}.items()
                if name.partition(".")[0] in steps
            },
        ),
    )
    sweep = Sweep(
        model="toy",
        about="a model that is none",
        items={"search": 64},
        profile=profile,
        evidence=evidence("Conv", "Gemm"),
        original_sha256="0" * 64,
        machine="none",
        versions={},
        when="2026-11-29",
    )
    made: set[str] = set()
    pieces = []
    for recipe, level in sweep.work:
        new = tuple(one for one in beginnings(recipe, level) if one not in made)
        made.update(new)
        figures: tuple[Figure, ...] = (agreement(true(recipe)),)
        if level.is_structure:
            figures = (
                exact(FigureName.LATENCY_P50, fast(recipe), 1.0),
                exact(FigureName.SIZE, fast(recipe) ** 2, 1.0),
            )
        pieces.append(
            Piece(
                recipe=recipe,
                level=level,
                figures=figures,
                broken="",
                building_s=LOOKING_S + BUILDING_S * len(new),
                measuring_s=MEASURING_S,
                made=new,
            )
        )
    again = [
        replace(piece, building_s=LOOKING_S, made=())
        for piece in pieces
        if piece.level.is_structure
    ]
    return replace(sweep, pieces=(*pieces, *again * (PASSES - 1)))
