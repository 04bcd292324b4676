"""Optuna's samplers, each seeded by the trial that it proposes for."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from optimizers.contract.search import Sampler
from optimizers.search.learned import as_known, came_to_nothing

POPULATION: Final = 12
"""Of a generation of NSGA-II; small, as a trial is dear."""
MOST_IN_VAIN: Final = 8
"""How often in a row a sampler, and then chance, may propose what a study has had."""

_CANDIDATES: Final = 24
"""Draws of which TPE proposes the one that promises most."""
_FEWEST_FIRST: Final = 3
_MOST_FIRST: Final = 10


class SeededByTrial(BaseSampler):
    """A sampler of Optuna, begun anew for each trial with a seed made of its number.

    So a proposal is a function of the seed, the trial's number and what was told, whichever
    process asks and however often a study was interrupted; two workers that begin at the same
    time draw different numbers.

    TPE proposes the best of few draws, and at last any, where what it promises most of was had
    already: with many it would promise the same again and again, as it was seen to. That a recipe
    was had is nothing to hold against those that are like it.

    Args:
        kind: Which; a grid asks for nothing that is not given, so it gets a random one.
        seed: Of everything random.
        trials: How many recipes will be asked for, as far as is known. TPE begins to model once a
            quarter of so many have come to something, at least 3 and at most 10 (a quarter is the
            most that SMAC begins with, Lindauer et al., 2022); what was put in first counts.

    Attributes:
        in_vain: How often in a row something was proposed that the study has had.
    """

    def __init__(self, kind: Sampler, seed: int, trials: int) -> None:
        self.in_vain = 0
        self._kind = kind
        self._seed = seed
        self._first = min(_MOST_FIRST, max(_FEWEST_FIRST, trials // 4))
        self._inner = self._begun(0, self._first)
        self._known: Study | None = None

    @property
    def kind(self) -> Sampler:
        """Who proposes."""
        return Sampler.RANDOM if self.in_vain >= MOST_IN_VAIN else self._kind

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Begin anew."""
        self._known, first = None, self._first
        if self.kind is Sampler.TPE:
            self._known = as_known(study, trial)
            first += came_to_nothing(self._known)
        self._inner = self._begun(trial.number, first)
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """See `BaseSampler`."""
        return self._inner.infer_relative_search_space(self._of(study), trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See `BaseSampler`."""
        return self._inner.sample_relative(self._of(study), trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """See `BaseSampler`."""
        return self._inner.sample_independent(
            self._of(study), trial, param_name, param_distribution
        )

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """See `BaseSampler`."""
        self._inner.after_trial(study, trial, state, values)

    def _of(self, study: Study) -> Study:
        """The study that this trial is proposed by."""
        return study if self._known is None else self._known

    def _begun(self, number: int, first: int) -> BaseSampler:
        """One for a trial; TPE models nothing before so many are known."""
        entropy = (self._seed % 2**63, number)
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        if self.kind is Sampler.TPE:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                return TPESampler(
                    seed=seed,
                    n_startup_trials=first,
                    n_ei_candidates=max(1, _CANDIDATES >> self.in_vain),
                    multivariate=True,
                    group=True,
                    constant_liar=False,  # `as_known` tells what is under way
                )
        if self.kind is Sampler.NSGA2:
            return NSGAIISampler(seed=seed, population_size=POPULATION)
        return RandomSampler(seed=seed)
