"""Proposes recipes composed of parts that were seen to gain something, or may.

Samplers that know nothing of recipes need dozens of trials to learn what a few tell to whoever
assumes that gains multiply. What is proposed is the recipe of the largest expected improvement on
the best that holds the goal, times the probability that it holds it (Schonlau, Welch and Jones,
"Global versus local search in constrained optimization of computer models", 1998), by the model of
`surrogate`. Of several aims a sum is improved whose weights are drawn anew for each proposal, as in
ParEGO (Knowles, 2006).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.stats import norm

from optimizers.contract.declaration import Choice, Range, Value
from optimizers.contract.goal import Goal
from optimizers.contract.recipe import Recipe
from optimizers.contract.study import Trial, TrialState
from optimizers.search.objectives import STRUCTURAL, margin, objectives
from optimizers.search.space import Space
from optimizers.search.surrogate import Array, Features, LinearModel

_FEWEST: Final = 3
"""Trials that have to be measured before anything follows from them."""
_AT_RANDOM: Final = 128
_LIKE_THE_BEST: Final = 128
_BEST: Final = 4
_CHANGED: Final = 0.25
"""Share of the questions that are answered anew in a recipe that is like one of the best."""
_NOISE: Final = 0.05
_LEAST_SPREAD: Final = 0.1
_LEAST_MARGIN: Final = 0.01
_NOISE_OF_MARGINS: Final = 0.25
_WORTH_IT: Final = 1e-3
"""What is expected to gain less, in logarithms, is left to the sampler."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Composed:
    """A proposal.

    Attributes:
        recipe: What to try.
        reason: Why, for people.
    """

    recipe: Recipe
    reason: str


class Composer:
    """Learns from the trials of one search; the same trials propose the same.

    Args:
        goal: With the task's floors.
        space: Of the recipes.
        seed: Of everything random.
    """

    def __init__(self, goal: Goal, space: Space, *, seed: int) -> None:
        self._goal = goal
        self._space = space
        self._seed = seed
        self._features = Features(space.dimensions)

    def propose(self, trials: Collection[Trial]) -> Composed | None:
        """What promises most; None where too little is known, or nothing promises anything.

        Args:
            trials: All of the search so far, those that run among them.
        """
        known = [(self._space.parameters(one.recipe), one) for one in trials]
        inside = [(answers, one) for answers, one in known if answers and one.figures]
        if len(inside) < _FEWEST:
            return None
        random = np.random.default_rng((self._seed, len(trials)))
        had = {one.recipe for one in trials}
        best = sorted((one for _, one in inside), key=self._rank)[:_BEST]
        candidates = self._candidates(random, best, had)
        if not candidates:
            return None
        rows = np.stack([self._features.of(answers) for answers in candidates.values()])
        gains = self._gains(random, inside, rows)
        index = int(np.argmax(gains))
        if gains[index] < _WORTH_IT:
            return None
        return Composed(
            recipe=tuple(candidates)[index],
            reason=f"composed of what {len(inside)} trials showed of its parts",
        )

    def _rank(self, trial: Trial) -> tuple[bool, float]:
        return trial.violation > 0, sum(objectives(self._goal, trial.figures))

    def _candidates(
        self, random: np.random.Generator, best: Collection[Trial], had: Collection[Recipe]
    ) -> dict[Recipe, Mapping[str, Value]]:
        """Recipes that were not had, with their answers: any, and such as are like the best."""
        found: dict[Recipe, Mapping[str, Value]] = {}

        def draw(former: Mapping[str, Value]) -> None:
            answers: dict[str, Value] = {}

            def choose(name: str, one: Range) -> Value:
                stays = name in former and random.random() >= _CHANGED
                answers[name] = former[name] if stays else _any(random, one)
                return answers[name]

            recipe = self._space.recipe(choose)
            if recipe.steps and recipe not in had:
                found[recipe] = answers

        for _ in range(_AT_RANDOM):
            draw({})
        for trial in best:
            answers = self._space.parameters(trial.recipe) or {}
            for _ in range(_LIKE_THE_BEST // _BEST):
                draw(answers)
        return found

    def _gains(
        self,
        random: np.random.Generator,
        inside: Collection[tuple[Mapping[str, Value], Trial]],
        rows: Array,
    ) -> Array:
        """By how much each row is expected to be better than the best that holds the goal."""
        weights = random.dirichlet(np.ones(len(self._goal.optimize)))
        told = [
            (self._features.of(answers), float(weights @ values), one)
            for answers, one in inside
            for values in [np.array(objectives(self._goal, one.figures))]
            if np.isfinite(values).all() and self._is_settled(one)
        ]
        if not told:
            return np.zeros(len(rows))
        # The original asks nothing and is even with itself.
        best = min([0.0, *(value for _, value, one in told if one.is_feasible)])
        values = np.array([value for _, value, _ in told])
        model = LinearModel(
            np.stack([row for row, _, _ in told]),
            values,
            spread=max(_LEAST_SPREAD, float(np.std(values))),
            noise=_NOISE,
        )
        mean, deviation = model.predict(rows)
        z = (best - mean) / deviation
        improvement = (best - mean) * norm.cdf(z) + deviation * norm.pdf(z)
        return np.asarray(improvement * self._holding(inside, rows))

    def _margin(self, trial: Trial) -> float | None:
        found = margin(self._goal, trial.figures)
        if found is None or trial.state is TrialState.COMPLETE or found <= 0:
            return found
        return found * 0.5 ** (trial.levels - trial.level)

    def _is_settled(self, trial: Trial) -> bool:
        """Whether no training to come changes what a trial is credited with."""
        return trial.state is TrialState.COMPLETE or STRUCTURAL.issuperset(self._goal.optimize)

    def _holding(self, inside: Collection[tuple[Mapping[str, Value], Trial]], rows: Array) -> Array:
        """How probably each row holds what is required."""
        told = [
            (self._features.of(answers), missed)
            for answers, one in inside
            if (missed := self._margin(one)) is not None
        ]
        if not told:
            return np.ones(len(rows))
        # What is required is held by the original by some margin, which is learned as well.
        known = np.stack([np.append(row, 1.0) for row, _ in told])
        values = np.array([value for _, value in told])
        spread = max(_LEAST_MARGIN, float(np.std(values)))
        model = LinearModel(known, values, spread=spread, noise=_NOISE_OF_MARGINS * spread)
        mean, deviation = model.predict(np.column_stack([rows, np.ones(len(rows))]))
        return np.asarray(norm.cdf(-mean / deviation))


def _any(random: np.random.Generator, one: Range) -> Value:
    if isinstance(one, Choice):
        return one.values[int(random.integers(len(one.values)))]
    if one.log:
        return float(np.exp(random.uniform(np.log(one.low), np.log(one.high))))
    return float(random.uniform(one.low, one.high))
